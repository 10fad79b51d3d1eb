//! Following the records without reading them all again and again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use weft_proto::cni::AttachmentKey;

use crate::{Attachment, Attachments, Damaged, Listed, RecordError};

/// Two changes within the kernel's clock tick leave the same time stamp (10 ms with
/// HZ=100); a directory that changed more recently than this is listed again.
const SETTLED: Duration = Duration::from_secs(1);

/// Tells one state of a file or directory from another. Records are replaced, never
/// written in place, so a changed record is another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            inode: metadata.ino(),
            size: metadata.len(),
            seconds: metadata.ctime(),
            nanoseconds: metadata.ctime_nsec(),
        })
    }

    fn is_settled(&self) -> bool {
        let Ok(seconds) = u64::try_from(self.seconds) else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds + 1);
        SystemTime::now()
            .duration_since(changed)
            .is_ok_and(|age| age > SETTLED)
    }
}

/// All records, kept up to date by [`Listing::refresh`]. Where nothing changed that
/// costs one system call; otherwise one a record, and only new records are read.
#[derive(Debug)]
pub struct Listing {
    attachments: Attachments,
    directory: Option<Stamp>,
    records: BTreeMap<String, (Stamp, Listed)>,
}

impl Listing {
    /// An empty listing; call [`Listing::refresh`].
    pub fn new(attachments: Attachments) -> Self {
        Self {
            attachments,
            directory: None,
            records: BTreeMap::new(),
        }
    }

    /// Reads what changed. Returns whether any record came, went or changed.
    ///
    /// # Errors
    /// [`RecordError::Io`] if the directory can't be read; the listing stays as it was.
    pub fn refresh(&mut self) -> Result<bool, RecordError> {
        let directory = Stamp::of(self.attachments.directory()).ok();
        if directory.is_some() && directory == self.directory {
            return Ok(false);
        }
        let mut records = BTreeMap::new();
        for name in self.attachments.names()? {
            let Ok(stamp) = Stamp::of(&self.attachments.directory().join(&name)) else {
                continue;
            };
            let known = self.records.get(&name);
            let listed = match known {
                Some((before, listed)) if *before == stamp => Some(listed.clone()),
                Some(_) | None => self.attachments.load(&name),
            };
            if let Some(listed) = listed {
                records.insert(name, (stamp, listed));
            }
        }
        let changed = records.len() != self.records.len()
            || records.iter().any(|(name, (_, listed))| {
                self.records.get(name).map(|(_, before)| before) != Some(listed)
            });
        self.records = records;
        self.directory = directory.filter(Stamp::is_settled);
        Ok(changed)
    }

    /// The attachments, by key.
    pub fn attachments(&self) -> BTreeMap<&AttachmentKey, &Attachment> {
        self.records
            .values()
            .filter_map(|(_, listed)| listed.as_ref().ok())
            .map(|attachment| (&attachment.key, attachment))
            .collect()
    }

    /// Files that are no records, and why.
    pub fn damaged(&self) -> Vec<&Damaged> {
        self.records
            .values()
            .filter_map(|(_, listed)| listed.as_ref().err())
            .collect()
    }
}
