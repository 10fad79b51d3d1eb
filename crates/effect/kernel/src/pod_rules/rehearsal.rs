//! Whether the kernel takes rules about a pod's link, without anything of them staying.

use weft_desired::PodRules;
use weft_sys::netlink::Error;
use weft_sys::nft::{Batch, Connection, Family};

use super::item::{PLACES, elements};
use super::layout::layout;

/// Has the kernel try what [`super::set`] would write about a link that it has not yet, tables
/// and rules included, and take it back.
///
/// # Errors
/// See [`Error`].
pub fn rehearse(rules: &PodRules) -> Result<(), Error> {
    let mut connection = Connection::open()?;
    // Pods without rules of their own are looked for among the rules too.
    connection.tables(Family::V4)?;
    for place in PLACES {
        let layout = layout(place);
        let wanted = elements(rules, place);
        if wanted.is_empty() {
            continue;
        }
        let mut batch = Batch::new();
        layout.write(&mut batch);
        for item in &wanted {
            batch.add_element(&layout.name, item.set, item.element(&rules.comment));
        }
        match connection.rehearse(batch) {
            // A pod has this address: it was written.
            Err(error) if is_about_an_element(&error) && error.is_exists() => {}
            other => other?,
        }
    }
    Ok(())
}

/// Of a set that is there with other types the kernel says the same.
fn is_about_an_element(error: &Error) -> bool {
    matches!(error, Error::Refused { operation, .. } if *operation == "add element")
}
