//! Who the servers run as: Postgres refuses to run as root, so root runs it as somebody else.

use crate::error::{Error, Result};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The system user that owns data directories and server processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    /// this process is root and the account is another one
    switched: bool,
}

impl Account {
    /// This process's own user; for root an existing unprivileged one: `postgres`, else `nobody`.
    /// Nothing is created system-wide.
    pub fn choose() -> Result<Account> {
        // SAFETY: both calls only return a number and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        if uid != 0 {
            return Ok(Account { uid, gid, switched: false });
        }
        [c"postgres", c"nobody"]
            .into_iter()
            .find_map(look_up)
            .map(|(uid, gid)| Account { uid, gid, switched: true })
            .ok_or_else(|| {
                Error::config("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")
                    .hint("Run this as an ordinary user.")
            })
    }

    /// The program will run as this account.
    pub fn dress(&self, command: &mut Command) {
        if self.switched {
            command.gid(self.gid).uid(self.uid);
        }
    }

    /// Makes the account the owner of a file or directory that this process has just made.
    pub fn own(&self, path: &Path) -> Result<()> {
        if !self.switched {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).map_err(|e| {
            Error::config(format!("cannot hand {} to the user of the servers: {e}", path.display()))
        })
    }

    /// Whether the account can enter every directory on the way to `path` (which is absolute and exists).
    pub fn reaches(&self, path: &Path) -> bool {
        if !self.switched {
            return true;
        }
        let Ok(path) = path.canonicalize() else { return false };
        path.ancestors().all(|dir| {
            let Ok(meta) = std::fs::metadata(dir) else { return false };
            let bit = match () {
                _ if meta.uid() == self.uid => 0o100,
                _ if meta.gid() == self.gid => 0o010,
                _ => 0o001,
            };
            meta.mode() & bit != 0
        })
    }
}

/// uid and gid of a user by name; never root's.
fn look_up(name: &CStr) -> Option<(u32, u32)> {
    let mut buffer = vec![0; 16 * 1024];
    let mut result = std::ptr::null_mut();
    // SAFETY: passwd is plain data for which zero bytes are valid (null pointers, zero numbers).
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    // SAFETY: all pointers are valid for the call, and the length is the buffer's.
    let code = unsafe {
        libc::getpwnam_r(name.as_ptr(), &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut result)
    };
    (code == 0 && !result.is_null() && entry.pw_uid != 0).then_some((entry.pw_uid, entry.pw_gid))
}

/// Whether this process may write into a directory.
pub fn writable(dir: &Path) -> bool {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path is a C string that lives through the call.
    unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn servers_never_run_as_root() {
        let account = Account::choose().unwrap();
        assert_ne!(account.uid, 0);
    }

    #[test]
    fn a_closed_directory_on_the_way_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let somebody = Account { uid: 54321, gid: 54321, switched: true };
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert!(!somebody.reaches(&inner));
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
        std::fs::set_permissions(&inner, PermissionsExt::from_mode(0o711)).unwrap();
        assert!(somebody.reaches(&inner));
    }
}
