//! What containers send beyond the network goes out with the host's address, if that is asked for:
//! flannel's `--ip-masq`, by the rules that do it for pods on a cluster.

use anyhow::{Context, Result};
use ipnet::IpNet;
use tracing::debug;
use weft_desired::{LocalDetection, NodeNat, Table};
use weft_kernel::service::{self, IpFamily, ServiceTable};
use weft_sys::nft::Connection;

use crate::agent::ADOPTION_PATIENCE;
use crate::agent::kernel::adopt_services;

/// The rules, if there are to be any.
pub(super) struct Masquerade {
    table: Option<ServiceTable>,
    nat: NodeNat,
}

impl Masquerade {
    /// For the containers of these networks. Where it is not asked for any more, an earlier run's
    /// rules go.
    pub(super) async fn take_up(wanted: bool, networks: &[IpNet]) -> Result<Self> {
        let table = match wanted {
            true => Some(adopt_services(&families(networks), ADOPTION_PATIENCE).await?),
            false => {
                remove()?;
                None
            }
        };
        let nat = NodeNat {
            pod_ranges: networks.iter().copied().collect(),
            local: LocalDetection::Nothing,
            ..NodeNat::default()
        };
        Ok(Self { table, nat })
    }

    /// Reads the rules back, and writes what differs.
    pub(super) fn write(&mut self) -> Result<()> {
        let Some(table) = &mut self.table else {
            return Ok(());
        };
        if !table.needs_reconcile() && table.is_untouched()? {
            return Ok(());
        }
        let report = table.reconcile(&Table::new(), &self.nat);
        report.context("the masquerade (--ip-masq)").map(drop)
    }
}

fn families(networks: &[IpNet]) -> Vec<IpFamily> {
    let all = [(IpFamily::V4, true), (IpFamily::V6, false)];
    let there = |v4: bool| networks.iter().any(|net| net.addr().is_ipv4() == v4);
    let all = all.into_iter().filter(|(_, v4)| there(*v4));
    all.map(|(family, _)| family).collect()
}

fn remove() -> Result<()> {
    let looked = || -> Result<_, service::Error> {
        let mut connection = Connection::open()?;
        let there = service::present(&mut connection, &[IpFamily::V4, IpFamily::V6])?;
        Ok((connection, there))
    };
    match looked() {
        Ok((mut connection, there)) => {
            for family in there {
                let removed = service::remove(&mut connection, family);
                removed.context("the masquerade of an earlier run")?;
            }
        }
        // A kernel without nf_tables has no rules.
        Err(error) => debug!(%error, "no look at what masquerades"),
    }
    Ok(())
}
