//! What pods may send, as whom they leave the cluster, and what passes their bridges, is the CNI
//! plugin's to write, pod by pod. What somebody else takes away of it the agent puts back.

use std::path::Path;

use anyhow::Result;
use tracing::warn;
use weft_nodestate::Attachments;
use weft_proto::cni::DEFAULT_STATE_DIR;
use weft_sys::nft::{Connection, Generation};

/// When the rules were last seen whole.
#[derive(Debug, Default)]
pub(super) struct PodRules {
    seen: Option<Generation>,
}

impl PodRules {
    /// Looks whether the rules stand, if anybody has written to nf_tables since the last time.
    pub(super) fn look(&mut self) {
        let looked = self.try_look();
        report(looked);
    }

    /// Looks at every pod's part of them too.
    pub(super) fn audit(&mut self) {
        report(restore());
    }

    fn try_look(&mut self) -> Result<bool> {
        let now = Connection::open()?.generation()?;
        if self.seen == Some(now) {
            return Ok(false);
        }
        // At its start the agent looks at everything.
        let is_whole = self.seen.is_some() && weft_cni::pod_rules::stand(&records())?;
        let was_missing = !is_whole && restore()?;
        self.seen = Some(now);
        Ok(was_missing)
    }
}

fn restore() -> Result<bool> {
    weft_cni::pod_rules::restore(&records())
}

fn records() -> Attachments {
    Attachments::under(Path::new(DEFAULT_STATE_DIR))
}

fn report(restored: Result<bool>) {
    match restored {
        Ok(false) => {}
        Ok(true) => warn!(
            "rules about pods and their bridges were an earlier version's, or somebody else removed \
             some: repaired"
        ),
        Err(error) => {
            let error = format!("{error:#}");
            warn!(
                error,
                "rules about pods and their bridges can't be looked at"
            );
        }
    }
}
