//! The users of sessions, in the vessel's own `/etc/passwd`: they are there after restarts, in snapshots and in forks.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;

use tokio::io::AsyncReadExt;

use super::passwd::{self, Account};
use crate::{Error, ErrorKind, ExecOptions, OpenOptions, Result, UserFiles, Vessel};

/// Largest `/etc/passwd` and `/etc/group` that a user is added to, bytes; the runtime reads no larger ones.
const MOST: u64 = (1 << 20) - 1024;
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// `PATH` of sessions, as the original has it.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The user of a session.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) home: PathBuf,
    /// Where their files are.
    pub(super) workspace: PathBuf,
    pub(super) shell: &'static str,
    /// What they can read and write of those.
    pub(super) files: UserFiles,
}

impl User {
    /// Who runs their commands.
    pub(super) fn spec(&self) -> String {
        format!("{0}:{0}", self.uid)
    }

    /// A command of theirs, in their home, where what it changes stays.
    pub(super) fn command<S: Into<OsString>>(&self, argv: impl IntoIterator<Item = S>) -> ExecOptions {
        let home = self.home.as_os_str();
        ExecOptions::new(argv)
            .user(self.spec())
            .work_dir(&self.home)
            .persist_result(true)
            .env("HOME", home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name)
            .env("PATH", PATH)
            .env("SHELL", self.shell)
            .env("LANG", "C.UTF-8")
    }
}

/// Finds the user of a session, or makes one. One at a time: the caller has a lock.
///
/// # Errors
/// [`InvalidArgument`](ErrorKind::InvalidArgument) in a vessel with a single id; those of the files.
pub(super) async fn ensure(vessel: &Vessel, session: &str) -> Result<User> {
    let account = match passwd::find(&read(vessel, PASSWD).await?, session) {
        Some(account) => account,
        None => create(vessel, session).await?,
    };
    let user = user_of(vessel, &account).await;
    make_home(vessel, &account).await?;
    vessel.user_files(user.uid, user.uid, &user.home).make_dir_all(&user.workspace, 0o755).await?;
    Ok(user)
}

/// The user of a session, if it has one.
///
/// # Errors
/// Those of reading `/etc/passwd`.
pub(super) async fn find(vessel: &Vessel, session: &str) -> Result<Option<User>> {
    match passwd::find(&read(vessel, PASSWD).await?, session) {
        Some(account) => Ok(Some(user_of(vessel, &account).await)),
        None => Ok(None),
    }
}

async fn user_of(vessel: &Vessel, account: &Account) -> User {
    let home = PathBuf::from(account.home());
    let workspace = home.join("workspace");
    let files = vessel.user_files(account.id, account.id, &workspace);
    User {
        name: account.name.clone(),
        uid: account.id,
        home,
        workspace,
        shell: login_shell(vessel).await,
        files,
    }
}

async fn login_shell(vessel: &Vessel) -> &'static str {
    if vessel.stat("/bin/bash").await.is_ok() { "/bin/bash" } else { "/bin/sh" }
}

async fn create(vessel: &Vessel, session: &str) -> Result<Account> {
    let (users, groups) = (read(vessel, PASSWD).await?, read(vessel, GROUP).await?);
    let shell = login_shell(vessel).await;
    let id = passwd::free_id(&users, &groups)
        .ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "the vessel has too many users"))?;
    for name in passwd::names(session) {
        let account = Account { name, id };
        if passwd::is_taken(&users, &groups, &account.name)
            || vessel.symlink_stat(account.home()).await.is_ok()
        {
            continue;
        }
        vessel.write_file(GROUP, passwd::with_group(&groups, &account), 0o644).await?;
        // From here on the session has it.
        vessel.write_file(PASSWD, passwd::with_user(&users, &account, session, shell), 0o644).await?;
        return Ok(account);
    }
    Err(Error::new(ErrorKind::LimitExceeded, "the vessel has too many users of this name"))
}

/// A directory that is there is theirs, or was left by somebody who was killed before it was given to them.
async fn make_home(vessel: &Vessel, account: &Account) -> Result<()> {
    let home = account.home();
    match vessel.symlink_stat(&home).await {
        Ok(found) if found.is_dir() && found.uid == account.id => return Ok(()),
        Ok(found) if !found.is_dir() || found.uid != 0 => {
            return Err(Error::conflict(format!("not a directory of its user: {home:?}")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            vessel.make_dir_all("/home", 0o755).await?;
            vessel.make_dir(&home, 0o700).await?;
        }
        Err(error) => return Err(error),
    }
    vessel.set_owner(&home, account.id, account.id).await.map_err(|error| match error.kind() {
        ErrorKind::InvalidArgument => {
            error.with_remedy("sessions need subordinate ids: see `vesselrt doctor`")
        }
        _ => error,
    })
}

/// A file that belongs to whoever made the image; nothing when there is none.
async fn read(vessel: &Vessel, path: &str) -> Result<Vec<u8>> {
    let file = match vessel.open_file(path, &OpenOptions::new().read(true)).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut content = Vec::new();
    let read = file.take(MOST + 1).read_to_end(&mut content).await;
    match read.map_err(|e| Error::io(format!("failed to read {path:?}"), e))? as u64 {
        read if read > MOST => {
            Err(Error::new(ErrorKind::LimitExceeded, format!("{path} has more than {MOST} bytes")))
        }
        _ => Ok(content),
    }
}
