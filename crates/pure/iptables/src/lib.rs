//! Services as iptables rules: the chains that kube-proxy writes, as text and as a difference
//! of texts. Nothing here runs a program; `weft-kernel` does.

mod chain;
mod current;
mod digest;
mod fragment;
mod listing;
mod programme;
mod restore;
mod rule;
mod ruleset;
mod settings;
mod v1_23;
mod view;

pub use chain::{Chain, ServiceChains, Table};
pub use listing::Listing;
pub use programme::{Programme, cleanup, is_ours};
pub use restore::Restore;
pub use rule::{Condition, Match, Rule, State, Target};
pub use ruleset::{Chains, Ruleset};
pub use settings::{Generation, Options};
pub use view::view;
