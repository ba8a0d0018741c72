//! `serve`: the service.
#![forbid(unsafe_code)]

mod log;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use vesselrt::serve::{Listen, ServeConfig, Service, TlsFiles, Token, WhenFull, parse_size, valid_cpus};
use vesselrt::settings::{Network, NetworkMode};

use super::values::duration;
use super::{Context, Failure, Outcome};

const NET: &str = "Listening";
const SHIPS: &str = "Ships";

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Ships are vessels that sessions share; the API is that of Shipyard's Bay, and its clients need not be changed. Nothing else has to
run, nothing runs as root. SIGTERM and SIGINT end it; ships, sessions and their times are found again when it is started again.
Without a token there is one in the file that is printed, if nobody but this machine reaches the service.

Examples:
  vesselrt image import ship.tar --ref ship:latest && vesselrt serve
  ACCESS_TOKEN=secret vesselrt serve --listen 0.0.0.0:8156 --tls-cert cert.pem --tls-key key.pem
  vesselrt serve --image debian:12 --pool 4 --max-ships 100 --when-full reject
  curl -H \"Authorization: Bearer $(cat ~/.local/share/vesselrt/serve/token)\" http://127.0.0.1:8156/ships")]
pub(super) struct Serve {
    /// Where to listen: ADDRESS:PORT or unix:PATH [default: $HOST:$PORT, or 127.0.0.1:8156]
    #[arg(help_heading = NET, long, value_name = "WHERE")]
    listen: Option<Listen>,
    /// Address to listen on, without --listen
    #[arg(help_heading = NET, long, value_name = "ADDRESS", env = "HOST", hide = true)]
    host: Option<String>,
    /// Port to listen on, without --listen
    #[arg(help_heading = NET, long, value_name = "PORT", env = "PORT", hide = true)]
    port: Option<u16>,
    /// Certificate, followed by those that lead to its root (PEM)
    #[arg(help_heading = NET, long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(help_heading = NET, long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let requests name this host, besides the address that is listened on
    #[arg(help_heading = NET, long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Let pages of this origin use the service from a browser; * for all
    #[arg(help_heading = NET, long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Connections at once
    #[arg(help_heading = NET, long, value_name = "N", default_value_t = 1024)]
    max_connections: usize,
    /// How long the head of a request may take to arrive
    #[arg(help_heading = NET, long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    head_timeout: Duration,
    /// What clients must know; better in the environment, as others see arguments
    #[arg(help_heading = NET, long, value_name = "TOKEN", env = "ACCESS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Image of new ships
    #[arg(help_heading = SHIPS, long, value_name = "IMAGE", env = "DOCKER_IMAGE", default_value = "ship:latest")]
    image: String,
    /// Ships that may be up at once
    #[arg(help_heading = SHIPS, long, value_name = "N", env = "MAX_SHIP_NUM", default_value_t = 10)]
    max_ships: usize,
    /// What happens to a request for a ship when there are as many
    #[arg(help_heading = SHIPS, long, value_enum, value_name = "WHAT", env = "BEHAVIOR_AFTER_MAX_SHIP", default_value_t)]
    when_full: Full,
    /// Processors of a ship whose creator asks for none
    #[arg(help_heading = SHIPS, long, value_name = "N", env = "DEFAULT_SHIP_CPUS", value_parser = cpus)]
    ship_cpus: Option<u32>,
    /// Memory of a ship whose creator asks for none
    #[arg(help_heading = SHIPS, long, value_name = "SIZE", env = "DEFAULT_SHIP_MEMORY", value_parser = size)]
    ship_memory: Option<u64>,
    /// Disk of a ship whose creator asks for none
    #[arg(help_heading = SHIPS, long, value_name = "SIZE", env = "DEFAULT_SHIP_DISK", value_parser = size)]
    ship_disk: Option<u64>,
    /// Refuse ships whose limits cannot be enforced by control groups, instead of doing what can be done
    #[arg(help_heading = SHIPS, long)]
    strict_limits: bool,
    /// Network of ships
    #[arg(help_heading = SHIPS, long, value_enum, value_name = "MODE", default_value_t)]
    network: Net,
    /// Largest file of an upload
    #[arg(help_heading = SHIPS, long, value_name = "SIZE", env = "MAX_UPLOAD_SIZE", value_parser = size, default_value = "100m")]
    max_upload: u64,
    /// Vessels that are kept ready for new ships
    #[arg(help_heading = SHIPS, long, value_name = "N", default_value_t = 0)]
    pool: usize,
    /// How long what a stopped ship has written is kept
    #[arg(help_heading = SHIPS, long, value_name = "TIME", value_parser = duration, default_value = "720h")]
    keep_stopped: Duration,
    /// Directory of the state [default: serve in the directory of the store]
    #[arg(long, value_name = "DIR", env = "SHIP_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// How to write what happens, on standard error
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    log_format: log::Format,
    /// Write more of what happens
    #[arg(long, env = "DEBUG", action = ArgAction::SetTrue, value_parser = clap::builder::FalseyValueParser::new())]
    debug: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Full {
    /// It waits until one has gone
    #[default]
    Wait,
    /// It is refused
    Reject,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Net {
    /// One of their own without a way out
    #[default]
    None,
    /// This host's
    Host,
    /// One of their own with a way out, through pasta or slirp4netns
    Isolated,
}

fn cpus(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is not a number of processors such as 0.5 or 2");
    let cpus = text.parse().ok().filter(|cpus| valid_cpus(*cpus)).ok_or_else(wrong)?;
    // In range: 4,096,000 at most.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((cpus * 1000.0).round() as u32)
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| format!("{text:?} is not a size such as 512m or 1g"))
}

impl Serve {
    fn listen(&self) -> Outcome<Listen> {
        if let Some(listen) = &self.listen {
            return Ok(listen.clone());
        }
        let host = match self.host.as_deref() {
            None | Some("" | "localhost") => "127.0.0.1",
            Some(host) => host,
        };
        let address: IpAddr =
            host.parse().map_err(|_| Failure::invalid(format!("HOST is no address: {host:?}")))?;
        Ok(Listen::Tcp(SocketAddr::new(address, self.port.unwrap_or(8156))))
    }

    fn config(self, context: &Context) -> Outcome<ServeConfig> {
        let data = self.data_dir.clone().unwrap_or_else(|| context.root().join("serve"));
        let data =
            std::path::absolute(data).map_err(|e| Failure::io("find the directory of the state", e))?;
        let mut config = ServeConfig::new(data);
        config.listen = self.listen()?;
        config.token = self.token.filter(|token| !token.is_empty()).map(Token::new);
        config.image = self.image;
        config.max_ships = self.max_ships;
        config.when_full = match self.when_full {
            Full::Wait => WhenFull::Wait,
            Full::Reject => WhenFull::Reject,
        };
        let limits = &mut config.settings.limits;
        (limits.milli_cpus, limits.memory, limits.disk) = (self.ship_cpus, self.ship_memory, self.ship_disk);
        limits.best_effort = !self.strict_limits;
        config.settings.network = Network::new(match self.network {
            Net::None => NetworkMode::None,
            Net::Host => NetworkMode::Host,
            Net::Isolated => NetworkMode::Isolated,
        });
        config.max_upload = self.max_upload;
        config.pool = self.pool;
        config.allow_hosts = self.allow_host;
        config.cors = self.cors;
        config.tls = self.tls_cert.zip(self.tls_key).map(|(cert, key)| TlsFiles { cert, key });
        config.keep_stopped = self.keep_stopped;
        config.head_time = self.head_timeout;
        config.max_connections = self.max_connections;
        Ok(config)
    }
}

pub(super) async fn serve(args: Serve, context: &Context) -> Outcome {
    log::begin(args.log_format, args.debug || context.verbose, context.quiet)?;
    if std::env::var_os("DATABASE_URL").is_some() {
        context.warn("DATABASE_URL is not used: the state is a file in the directory of --data-dir");
    }
    let config = args.config(context)?;
    let manager = context.manager_for_upkeep().await?;
    let service = Service::start(manager, config).await?;
    let (mut term, mut int) = (listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?);
    let token = service.token_file().map(|path| path.display().to_string());
    match context.json {
        true => {
            let started = serde_json::json!({ "url": service.url(), "token_file": token });
            context.print_json_line(&started)?;
        }
        false => {
            context.print_line(&format!("listening on {}", service.url()))?;
            if let Some(token) = token {
                context
                    .print_line(&format!("the token is in {token}: export SHIPYARD_TOKEN=$(cat {token})"))?;
            }
        }
    }
    service
        .run(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        })
        .await?;
    Ok(())
}

fn listen_for(kind: SignalKind) -> Outcome<tokio::signal::unix::Signal> {
    signal(kind).map_err(|e| Failure::io("listen for signals", e))
}
