//! What pods may send, and as whom they leave the cluster, is the CNI plugin's to write, pod by
//! pod. What somebody else takes away of it the agent puts back.

use std::path::Path;

use anyhow::Result;
use tracing::warn;
use weft_kernel::pod_rules;
use weft_nodestate::Attachments;
use weft_proto::cni::DEFAULT_STATE_DIR;
use weft_sys::nft::{Connection, Generation};

use crate::cni;

/// A table for each address family.
const AT_LEAST: usize = 2;

/// When the rules were last seen whole.
#[derive(Debug, Default)]
pub(super) struct PodRules {
    seen: Option<Generation>,
    /// How many tables were whole then.
    whole: usize,
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
        // Fewer than there were, or not those that every pod has its part in.
        let whole = pod_rules::whole()?;
        let is_damaged = whole < self.whole.max(AT_LEAST);
        let was_missing = is_damaged && restore()?;
        self.whole = if was_missing {
            pod_rules::whole()?
        } else {
            whole
        };
        self.seen = Some(now);
        Ok(was_missing)
    }
}

fn restore() -> Result<bool> {
    cni::pod_rules::restore(&Attachments::under(Path::new(DEFAULT_STATE_DIR)))
}

fn report(restored: Result<bool>) {
    match restored {
        Ok(false) => {}
        Ok(true) => warn!("somebody else removed rules about what pods send: repaired"),
        Err(error) => {
            let error = format!("{error:#}");
            warn!(error, "rules about what pods send can't be looked at");
        }
    }
}
