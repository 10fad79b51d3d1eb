//! Why the Service table could not be read or written.

use weft_sys::netlink;

/// What went wrong with the Service table.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds the table.
    #[error(
        "the nf_tables table {table} belongs to another running agent: stop that one first \
         (`nft list table {table}` shows it)"
    )]
    Owned {
        /// Family and name.
        table: String,
    },
    /// The kernel refused a request, or could not be asked.
    #[error("nf_tables: {0}")]
    Kernel(#[from] netlink::Error),
    /// A change was to be made to a state that is not known.
    #[error("the Service table has to be read and reconciled before it is changed")]
    Unsettled,
}
