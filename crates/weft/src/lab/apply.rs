//! `weft lab apply`.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use weft_cluster::lab::boot::{self, Cluster};
use weft_cluster::lab::state::Lab;

use crate::output::{self, NotThere};

pub(super) fn run(lab: &Lab, files: &[PathBuf], namespace: &str) -> anyhow::Result<()> {
    let mut objects = Vec::new();
    for file in files {
        objects.extend(boot::objects(&file.to_string_lossy(), &read(file)?)?);
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

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            NotThere(format!("{}: there is no such file", file.display())).into()
        } else {
            anyhow::Error::from(error).context(format!("cannot read {}", file.display()))
        }
    })
}
