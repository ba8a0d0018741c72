//! `logs`: what a process wrote.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vesselrt::{LogOptions, LogStart, ProcessEnd, ProcessEvent};

use super::values;
use crate::cli::{Context, Outcome};

/// Arguments of `logs`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
What was written to standard output is printed there, what was written to standard error on that. A terminal has standard \
output only.

Offsets count the bytes of both streams together. With --json each piece is a line that has its offset: whoever goes on at \
the offset after the last byte that it has (--offset) gets every later byte once. Only the newest part of a log is kept \
(exec --log-size): an offset before that is an error that tells where it begins.

Examples:
  vesselrt logs ID p1
  vesselrt logs ID p1 -f --tail 10
  vesselrt logs ID p1 --json --offset 4096")]
#[command(group = clap::ArgGroup::new("begin"))]
pub(crate) struct Logs {
    /// Go on until the process ends
    #[arg(short, long)]
    follow: bool,
    /// Begin with what was written since then: 10m ago, or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", group = "begin", value_parser = values::since)]
    since: Option<OffsetDateTime>,
    /// Begin so many lines before the end
    #[arg(long, value_name = "N", group = "begin")]
    tail: Option<usize>,
    /// Begin at this byte
    #[arg(long, value_name = "N", group = "begin")]
    offset: Option<u64>,
    /// Standard output only
    #[arg(long, conflicts_with = "stderr")]
    stdout: bool,
    /// Standard error only
    #[arg(long)]
    stderr: bool,
    /// Id of the vessel
    id: String,
    /// Id of the process
    #[arg(value_name = "PROC")]
    process: String,
}

impl Logs {
    fn options(&self) -> LogOptions {
        let start = match (self.since, self.tail, self.offset) {
            (Some(time), ..) => LogStart::Since(time),
            (_, Some(lines), _) => LogStart::Tail(lines),
            (.., Some(offset)) => LogStart::Offset(offset),
            _ => LogStart::Oldest,
        };
        LogOptions::new().start(start).follow(self.follow).stdout(!self.stderr).stderr(!self.stdout)
    }
}

pub(crate) async fn logs(args: &Logs, context: &Context) -> Outcome {
    let process = context.manager().await?.process(&args.id, &args.process).await?;
    let mut events = process.events(args.options()).await?;
    while let Some(event) = events.next().await? {
        show(&event, context)?;
    }
    Ok(())
}

/// Prints an event where it belongs.
pub(super) fn show(event: &ProcessEvent, context: &Context) -> Outcome {
    if context.json {
        return context.print_json_line(&to_json(event));
    }
    match event {
        ProcessEvent::Stdout { data, .. } => context.print_bytes(data),
        ProcessEvent::Stderr { data, .. } => context.print_error_bytes(data),
        ProcessEvent::Gone { from, to } => {
            context
                .warn(&format!("{} bytes are missing here: the log has none from {from} to {to}", to - from));
            Ok(())
        }
        _ => Ok(()),
    }
}

fn to_json(event: &ProcessEvent) -> Value {
    match event {
        ProcessEvent::Started { time } => json!({ "event": "started", "time": formatted(*time) }),
        ProcessEvent::Stdout { offset, time, data } => piece("stdout", *offset, *time, data),
        ProcessEvent::Stderr { offset, time, data } => piece("stderr", *offset, *time, data),
        ProcessEvent::Gone { from, to } => json!({ "event": "gone", "from": from, "to": to }),
        ProcessEvent::Exited(end) => ended(end),
        _ => Value::Null,
    }
}

fn formatted(time: OffsetDateTime) -> Option<String> {
    time.format(&Rfc3339).ok()
}

/// `text` where it is UTF-8, `base64` where it is not; `next` is the offset to go on at.
fn piece(event: &str, offset: u64, time: OffsetDateTime, data: &[u8]) -> Value {
    let next = offset + data.len() as u64;
    let mut value = json!({ "event": event, "offset": offset, "next": next, "time": formatted(time) });
    match std::str::from_utf8(data) {
        Ok(text) => value["text"] = text.into(),
        Err(_) => value["base64"] = STANDARD.encode(data).into(),
    }
    value
}

fn ended(end: &ProcessEnd) -> Value {
    json!({
        "event": "exited",
        "time": end.ended.and_then(formatted),
        "exitCode": end.result.map(|result| result.exit_code),
        "signal": end.result.and_then(|result| result.signal),
        "cause": end.cause.as_str(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_text_where_they_can_be() {
        let time = OffsetDateTime::UNIX_EPOCH;
        let text = piece("stdout", 7, time, "ä\n".as_bytes());
        assert_eq!((&text["text"], &text["next"]), (&json!("ä\n"), &json!(10)));
        let bytes = piece("stderr", 0, time, b"\xff\x00");
        assert_eq!((&bytes["base64"], bytes.get("text")), (&json!("/wA="), None));
        assert_eq!(bytes["time"], "1970-01-01T00:00:00Z");
    }
}
