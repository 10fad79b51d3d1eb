//! The files of a volume that the kubelet writes, swapped as a whole.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use jiff::Timestamp;

/// Files by their path in the volume: content and mode.
pub(super) type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// Writes a volume's files so that a reader sees all of the old or all of the new: they lie in a
/// folder of their own that `..data` points to, and each name is a link through it (Kubernetes'
/// AtomicWriter). Writes nothing when nothing differs.
pub(super) fn write_atomically(folder: &Path, files: &Files) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let data = folder.join("..data");
    let old = fs::read_link(&data).ok();
    if old.is_some() && holds(&data, files) {
        return Ok(());
    }
    let name = Timestamp::now()
        .strftime("..%Y_%m_%d_%H_%M_%S.%N")
        .to_string();
    let fresh = folder.join(&name);
    for (path, (content, mode)) in files {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, content)?;
        fs::set_permissions(&target, Permissions::from_mode(*mode))?;
    }
    fs::create_dir_all(&fresh)?;
    let next = folder.join("..data_tmp");
    let _none_left_over = fs::remove_file(&next);
    symlink(&name, &next)?;
    fs::rename(&next, &data)?;
    let tops: std::collections::BTreeSet<&str> = files
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for top in &tops {
        let link = folder.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(top), &link)?;
        }
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let stale = name
            .to_str()
            .is_some_and(|name| !name.starts_with("..") && !tops.contains(name));
        if stale {
            fs::remove_file(entry.path())?;
        }
    }
    match old {
        Some(old) => fs::remove_dir_all(folder.join(old)),
        None => Ok(()),
    }
}

fn holds(data: &Path, files: &Files) -> bool {
    let same = files.iter().all(|(path, (content, mode))| {
        let path = data.join(path);
        fs::read(&path).is_ok_and(|old| old == *content)
            && fs::metadata(&path).is_ok_and(|old| old.permissions().mode() & 0o777 == *mode)
    });
    same && count_files(data) == files.len()
}

fn count_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                count_files(&entry.path())
            } else {
                1
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        entries
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (text.as_bytes().to_vec(), 0o644)))
            .collect()
    }

    #[test]
    fn a_volume_is_swapped_whole_and_left_alone_when_equal() {
        let folder = std::env::temp_dir().join(format!("weft-volume-{}", std::process::id()));
        write_atomically(&folder, &files(&[("a", "1"), ("deep/b", "2")])).unwrap();
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(folder.join("deep/b")).unwrap(), "2");
        assert_eq!(
            fs::read_link(folder.join("a")).unwrap(),
            Path::new("..data/a")
        );
        let first = fs::read_link(folder.join("..data")).unwrap();

        write_atomically(&folder, &files(&[("a", "1"), ("deep/b", "2")])).unwrap();
        assert_eq!(fs::read_link(folder.join("..data")).unwrap(), first);

        write_atomically(&folder, &files(&[("a", "new")])).unwrap();
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "new");
        assert!(fs::symlink_metadata(folder.join("deep")).is_err());
        assert!(!folder.join(first).exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
