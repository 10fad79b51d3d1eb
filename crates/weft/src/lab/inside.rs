//! `weft lab exec` and `shell`.

use std::ffi::OsString;
use std::process::ExitCode;

use weft_cluster::lab::enter::Inside;
use weft_cluster::lab::state::Lab;

pub(super) fn exec(
    lab: &Lab,
    target: &str,
    namespace: &str,
    container: &str,
    command: &[OsString],
) -> anyhow::Result<ExitCode> {
    let code = Inside::find(lab, target, namespace)?.run(container, command)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

pub(super) fn shell(
    lab: &Lab,
    target: &str,
    namespace: &str,
    container: &str,
) -> anyhow::Result<ExitCode> {
    exec(
        lab,
        target,
        namespace,
        container,
        &["bash".into(), "-l".into()],
    )
}
