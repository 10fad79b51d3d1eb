//! `weft lab images`.

use std::path::Path;

use serde_json::json;
use weft_cluster::kubelet::images::{IMAGES, exists_on};

use crate::output::{self, Format, table};

pub(super) fn run(format: Format) -> anyhow::Result<()> {
    let rows = IMAGES.iter().map(|image| {
        let program = image.entrypoint.first().or(image.arguments.first());
        let there = image.package.is_empty()
            || program.is_some_and(|program| exists_on(Path::new("/"), program));
        (image, there)
    });
    match format {
        Format::Json => {
            let items: Vec<_> = rows
                .map(|(image, there)| {
                    json!({
                        "names": image.names,
                        "summary": image.summary,
                        "entrypoint": image.entrypoint,
                        "arguments": image.arguments,
                        "package": image.package,
                        "available": there,
                    })
                })
                .collect();
            output::say(serde_json::to_string_pretty(&items)?);
        }
        Format::Table => {
            let rows: Vec<_> = rows
                .map(|(image, there)| {
                    vec![
                        image.names.join(", "),
                        image.summary.to_owned(),
                        if there {
                            "yes".to_owned()
                        } else {
                            format!("no: apt-get install {}", image.package)
                        },
                    ]
                })
                .collect();
            output::print(table(&["IMAGE", "IS", "AVAILABLE"], &rows));
        }
    }
    Ok(())
}
