//! A pod whose node was down: its object is there, nothing else of it is.

use jiff::Timestamp;
use weft_kube::k8s_openapi::api::core::v1::Pod;

use super::Worker;
use crate::kubelet::status::{Life, Termination};

/// What a runtime reports of a container whose end it did not see (containerd, after a reboot).
const UNKNOWN_EXIT: i32 = 255;

impl Worker {
    /// Nothing is left of a pod that had run: the node was down. Its containers ended, nobody
    /// knows how, and are started again as its specification says.
    pub(super) fn begin_again(&mut self) {
        if self.finished {
            return;
        }
        let now = Timestamp::now();
        for (name, since) in running_once(&self.pod) {
            let Some(record) = self.records.get_mut(&name) else {
                continue;
            };
            record.ready = false;
            record.started = false;
            record.life = Life::Ended(Termination {
                id: record.id.clone().unwrap_or_default(),
                code: UNKNOWN_EXIT,
                signal: 0,
                reason: "Unknown".to_owned(),
                message: Some("The container ended while its node was down.".to_owned()),
                started: since,
                ended: Some(now),
            });
        }
        self.initialize_anew();
    }
}

/// The containers that the pod's status in the API takes for running, and since when.
fn running_once(pod: &Pod) -> Vec<(String, Option<Timestamp>)> {
    let status = pod.status.iter();
    let all = status.flat_map(|status| {
        let inits = status.init_container_statuses.iter().flatten();
        inits.chain(status.container_statuses.iter().flatten())
    });
    all.filter_map(|status| {
        let running = status.state.as_ref()?.running.as_ref()?;
        let since = running.started_at.as_ref().map(|time| time.0);
        Some((status.name.clone(), since))
    })
    .collect()
}
