//! `login` and `logout`.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, IsTerminal, Read};

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;
use vesselrt::CredentialsKept;

use crate::cli::{Context, Failure, Outcome, output};

/// A password or token is not longer than this.
const MAX_PASSWORD: u64 = 64 << 10;

const EXAMPLES: &str = "\
The password is checked against the registry, and kept where podman keeps it: $REGISTRY_AUTH_FILE, \
$XDG_RUNTIME_DIR/containers/auth.json or ~/.config/containers/auth.json, readable for you alone; or with the credential \
helper that config.toml names.

Examples:
  vesselrt login docker.io -u me
  pass show registry | vesselrt login registry.example.org -u ci --password-stdin";

/// Arguments of `login`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(in crate::cli) struct Login {
    /// Registry: host, or host:port
    host: String,
    /// User name; asked for if it is not given
    #[arg(short, long = "username", value_name = "USER")]
    user: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

/// Arguments of `logout`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Logout {
    /// Registry: host, or host:port
    host: String,
}

pub(in crate::cli) async fn login(args: Login, context: &Context) -> Outcome {
    let terminal = io::stdin().is_terminal();
    if !terminal && !args.password_stdin {
        let remedy = "vesselrt login HOST -u USER --password-stdin";
        return Err(Failure::invalid("there is no terminal to ask for the password").remedy(remedy));
    }
    let user = match args.user {
        Some(user) => user,
        None if args.password_stdin => {
            return Err(Failure::invalid("a password needs a user").remedy("add -u USER"));
        }
        None => ask("User: ", true)?,
    };
    let password = if args.password_stdin { piped()? } else { ask("Password: ", false)? };
    if user.is_empty() || password.is_empty() {
        return Err(Failure::invalid("user and password must not be empty"));
    }
    let kept = context.manager().await?.login(&args.host, &user, &password).await?;
    let place = match &kept {
        CredentialsKept::File(path) => path.display().to_string(),
        CredentialsKept::Helper(name) => format!("docker-credential-{name}"),
        _ => String::new(),
    };
    match context.json {
        true => context.print_json(&json!({ "registry": args.host, "username": user, "kept": place })),
        false => {
            context.note(&format!("kept in {place}"));
            context.print_line(&format!("logged in to {} as {user}", args.host))
        }
    }
}

pub(in crate::cli) async fn logout(args: Logout, context: &Context) -> Outcome {
    if !context.manager().await?.logout(&args.host).await? {
        return Err(Failure::not_found(format!("not logged in to {}", args.host)));
    }
    match context.json {
        true => context.print_json(&json!({ "registry": args.host })),
        false => context.print_line(&format!("logged out of {}", args.host)),
    }
}

/// All of standard input but the end of its line.
fn piped() -> Outcome<String> {
    let mut text = String::new();
    let read = io::stdin().take(MAX_PASSWORD).read_to_string(&mut text);
    read.map_err(|e| Failure::io("read the password", e))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A line that is typed, seen or not.
fn ask(prompt: &str, seen: bool) -> Outcome<String> {
    let stdin = io::stdin();
    let failed = |e: io::Error| Failure::io("read from the terminal", e);
    let before = tcgetattr(&stdin).map_err(|e| failed(e.into()))?;
    output::prompt(prompt);
    if !seen {
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &quiet).map_err(|e| failed(e.into()))?;
    }
    let mut line = String::new();
    let read = stdin.lock().take(MAX_PASSWORD).read_line(&mut line);
    if !seen {
        // As it was, whatever was read.
        let restored = tcsetattr(&stdin, OptionalActions::Flush, &before);
        output::prompt("\n");
        restored.map_err(|e| failed(e.into()))?;
    }
    read.map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
