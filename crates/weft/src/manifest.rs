//! Manifests: files of objects, as kubectl takes them.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;
use weft_cluster::lab::boot;

use crate::output::NotThere;

/// The objects of a file; `-` is standard input.
pub(crate) fn objects(file: &Path) -> anyhow::Result<Vec<Value>> {
    Ok(boot::objects(&file.to_string_lossy(), &read(file)?)?)
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
