//! `weft lab apply`.

use std::path::PathBuf;

use weft_cluster::lab::boot::Cluster;
use weft_cluster::lab::state::Lab;

use crate::manifest;
use crate::output;

pub(super) fn run(lab: &Lab, files: &[PathBuf], namespace: &str) -> anyhow::Result<()> {
    let mut objects = Vec::new();
    for file in files {
        objects.extend(manifest::objects(file)?);
    }
    super::up::runtime()?.block_on(async {
        let cluster = Cluster::connect(&lab.kubeconfig()).await?;
        for object in &objects {
            for applied in cluster
                .apply(std::slice::from_ref(object), namespace)
                .await?
            {
                output::say(format!("{} applied", applied.object));
            }
        }
        Ok(())
    })
}
