//! Lifecycle hooks: what a container does right after its start and before its end.

use std::net::IpAddr;
use std::time::Duration;

use weft_kube::k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::probing;
use super::shim::{Answer, Connection, Request};

/// Which hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// The container has started; nobody is told before the hook is done.
    PostStart,
    /// The container is to end; it is not asked to before the hook is done.
    PreStop,
}

/// Runs a hook. One that has not ended after `limit` is given up, which is no failure of its own.
///
/// # Errors
/// What the hook says or met, for the container's status.
pub(super) async fn run(
    hook: &LifecycleHandler,
    container: &Container,
    pod_ip: Option<IpAddr>,
    shim: &Connection,
    limit: Option<Duration>,
) -> Result<(), String> {
    let work = async {
        if let Some(action) = &hook.exec {
            let argv = action.command.clone().unwrap_or_default();
            return program(shim, &container.name, argv).await;
        }
        if let Some(action) = &hook.http_get {
            // The answer's code does not count, only that there is one.
            let question = probing::http::Question::of(action, container, pod_ip)?;
            return question.ask().await.map(|_| ());
        }
        if let Some(action) = &hook.sleep {
            let seconds = u64::try_from(action.seconds).unwrap_or(0);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            return Ok(());
        }
        // As in Kubernetes: the API takes tcpSocket, the kubelet does not.
        Err("invalid handler: a hook has exec, httpGet or sleep".to_owned())
    };
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Ok(())),
        None => work.await,
    }
}

async fn program(shim: &Connection, container: &str, argv: Vec<String>) -> Result<(), String> {
    let command = argv.join(" ");
    let request = Request::Execute {
        container: container.to_owned(),
        argv,
        timeout: None,
    };
    match shim.ask(request).await {
        Ok(Answer::Executed { code: 0, .. }) => Ok(()),
        Ok(Answer::Executed { code, output, .. }) => Err(format!(
            "command '{command}' exited with {code}: {output:?}"
        )),
        Ok(Answer::Refused(reason)) => Err(reason),
        Ok(
            Answer::Done
            | Answer::Started(_)
            | Answer::Containers(_)
            | Answer::Terminal
            | Answer::Joined { .. },
        ) => Err("the shim answered something else".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
