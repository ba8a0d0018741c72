//! Tests of credential files and helpers.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::error::StorageErrorKind;
use crate::registry::error::RegistryError;

fn sources(dir: &Path) -> Sources {
    let env = [("REGISTRY_AUTH_FILE", dir.join("explicit.json")), ("XDG_RUNTIME_DIR", dir.join("run"))];
    let env = env.map(|(name, path)| (name.to_owned(), path.to_str().unwrap().to_owned())).into();
    Sources { home: Some(dir.join("home")), env, ..Sources::default() }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// `user:pass` of each file is its name, so that the one that was used shows.
fn auth(name: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(format!("{name}:pw"))
}

fn user(found: Option<Credential>) -> String {
    match found {
        Some(Credential::Password { username, .. }) => username,
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn the_first_place_that_knows_the_registry_wins() {
    let tmp = tempfile::tempdir().unwrap();
    let places = [
        "home/.docker/config.json",
        "home/.config/containers/auth.json",
        "run/containers/auth.json",
        "explicit.json",
    ];
    for place in places {
        let text = format!(r#"{{"auths":{{"r.example:5000":{{"auth":"{}"}}}}}}"#, auth(place));
        write(&tmp.path().join(place), &text);
        let keyring = Keyring::new(&sources(tmp.path()));
        assert_eq!(user(keyring.find("r.example:5000", "a/b", None).await.unwrap()), place);
        assert_eq!(keyring.find("r.example", "a/b", None).await.unwrap(), None);
    }
    let mut keyring = Keyring::new(&sources(tmp.path()));
    keyring.explicit.insert("r.example:5000".into(), Credential::password("me", "x"));
    assert_eq!(user(keyring.find("r.example:5000", "a", None).await.unwrap()), "me");
}

#[tokio::test]
async fn keys_and_forms() {
    let tmp = tempfile::tempdir().unwrap();
    let text = format!(
        r#"{{"auths":{{"h.example":{{"auth":"{}"}},"h.example/team":{{"auth":"{}"}},
        "https://index.docker.io/v1/":{{"auth":"{}"}},"t.example":{{"auth":"dTo=","identitytoken":"refresh"}},
        "empty.example":{{}},"bad.example":{{"auth":"%%%"}}}}}}"#,
        auth("host"),
        auth("team"),
        auth("hub")
    );
    write(&tmp.path().join("explicit.json"), &text);
    let keyring = Keyring::new(&sources(tmp.path()));
    let find = async |host: &str, path: &str| keyring.find(host, path, None).await;
    assert_eq!(user(find("h.example", "team/app").await.unwrap()), "team");
    assert_eq!(user(find("h.example", "teams/app").await.unwrap()), "host");
    assert_eq!(user(find("docker.io", "library/a").await.unwrap()), "hub");
    assert_eq!(
        find("t.example", "a").await.unwrap(),
        Some(Credential::IdentityToken(Secret::new("refresh")))
    );
    assert_eq!(find("empty.example", "a").await.unwrap(), None);
    assert_eq!(find("bad.example", "a").await.unwrap_err().kind(), StorageErrorKind::InvalidArgument);
}

#[test]
fn secrets_are_not_printed() {
    let shown = format!("{:?}", Credential::password("u", "hunter2"));
    assert!(shown.contains("<secret>") && !shown.contains("hunter2"));
}

#[test]
fn entries_come_and_go_and_the_rest_stays() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("deep/auth.json");
    assert!(!file::change(&path, "h", None).unwrap());
    file::change(&path, "h.example", Some(&Credential::password("u", "p:q"))).unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    write(&path, &std::fs::read_to_string(&path).unwrap().replacen('{', "{\"extra\":[1],", 1));
    file::change(&path, "i.example", Some(&Credential::password("v", "w"))).unwrap();
    let read = AuthFile::read(&path).unwrap().unwrap();
    assert_eq!(read.find("h.example", "x").unwrap(), Some(Credential::password("u", "p:q")));
    assert!(file::change(&path, "h.example", None).unwrap());
    assert!(!file::change(&path, "h.example", None).unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("extra") && text.contains("i.example") && !text.contains("h.example"));
    let names = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(names, 2, "the file and its lock");
}

#[test]
fn writers_do_not_lose_each_others_entries() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("auth.json");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let path = &path;
            scope.spawn(move || {
                file::change(path, &format!("h{n}.example"), Some(&Credential::password("u", "p"))).unwrap();
            });
        }
    });
    let text = std::fs::read_to_string(&path).unwrap();
    assert!((0..8).all(|n| text.contains(&format!("h{n}.example"))));
}

fn helper(dir: &Path, script: &str, mode: u32) -> Result<Helper> {
    let program = dir.join("docker-credential-test");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
    Helper::find("test", Some("/home/me".into()), &[dir.to_path_buf()])
}

/// Only files of root are helpers, so only root can make one for a test.
#[allow(clippy::print_stderr)]
fn root_only() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root can make a credential helper");
    }
    root
}

#[tokio::test]
async fn a_helper_for_everything_may_be_missing_and_one_for_a_registry_may_not() {
    let tmp = tempfile::tempdir().unwrap();
    let auths = format!(r#""auths":{{"r.example":{{"auth":"{}"}}}}"#, auth("file"));
    write(&tmp.path().join("explicit.json"), &format!(r#"{{"credsStore":"desktop.exe",{auths}}}"#));
    let keyring = Keyring::new(&sources(tmp.path()));
    assert_eq!(user(keyring.find("r.example", "a", None).await.unwrap()), "file");
    write(
        &tmp.path().join("explicit.json"),
        &format!(r#"{{"credHelpers":{{"r.example":"no-such"}},{auths}}}"#),
    );
    assert!(matches!(keyring.find("r.example", "a", None).await, Err(RegistryError::Helper { .. })));
}

#[tokio::test]
async fn helpers_answer() {
    if !root_only() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let script = r#"read -r url; [ "$1" = get ] || exit 1
        printf '{"ServerURL":"%s","Username":"%s","Secret":"%s"}' "$url" "$HOME" "$url""#;
    let found = helper(tmp.path(), script, 0o755).unwrap().get("h.example").await.unwrap();
    assert_eq!(found, Some(Credential::password("/home/me", "h.example")));
    let token = r#"echo '{"ServerURL":"x","Username":"<token>","Secret":"t"}'"#;
    let found = helper(tmp.path(), token, 0o755).unwrap().get("h").await.unwrap();
    assert_eq!(found, Some(Credential::IdentityToken(Secret::new("t"))));
    let none = "echo 'credentials not found in native keychain'; exit 1";
    assert_eq!(helper(tmp.path(), none, 0o755).unwrap().get("h").await.unwrap(), None);
}

#[tokio::test]
async fn helpers_keep_and_forget() {
    if !root_only() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let kept = tmp.path().join("kept");
    let script = format!(
        r#"case "$1" in store) cat > {0} ;; get) read -r url; cat {0} ;; erase) read -r url; echo "$url" > {0}.gone ;; esac"#,
        kept.display()
    );
    let helper = helper(tmp.path(), &script, 0o755).unwrap();
    for credential in [Credential::password("u", "p\"q"), Credential::IdentityToken(Secret::new("t"))] {
        helper.store("h.example", &credential).await.unwrap();
        assert_eq!(helper.get("h.example").await.unwrap(), Some(credential));
    }
    assert!(std::fs::read_to_string(&kept).unwrap().contains(r#""ServerURL":"h.example""#));
    assert!(helper.store("h.example", &Credential::Bearer(Secret::new("t"))).await.is_err());
    helper.erase("h.example").await.unwrap();
    assert_eq!(std::fs::read_to_string(tmp.path().join("kept.gone")).unwrap().trim(), "h.example");
}

#[tokio::test]
async fn helpers_that_are_not_to_be_trusted() {
    if !root_only() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for script in ["exit 1", "echo nonsense", "echo secret; exit 3", "cat /dev/zero"] {
        let error = helper(tmp.path(), script, 0o755).unwrap().get("h").await.unwrap_err();
        assert!(matches!(error, RegistryError::Helper { .. }), "{script}: {error}");
        assert!(!error.to_string().contains("secret"));
    }
    assert!(helper(tmp.path(), "exit 0", 0o777).is_err());
    std::fs::set_permissions(tmp.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(helper(tmp.path(), "exit 0", 0o755).is_err());
    for name in ["", "../x", "a/b", "a b", &"x".repeat(65)] {
        assert!(Helper::new(name, None).is_err(), "{name}");
    }
}
