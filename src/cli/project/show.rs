//! `project get|ls|status|logs|path`: looking only.
#![forbid(unsafe_code)]

use clap::Args;
use serde_json::json;
use time::OffsetDateTime;

use super::Place;
use crate::cli::tables::{Table, ago};
use crate::cli::values::printable;
use crate::cli::{Failure, Outcome};

/// Arguments of `project ls`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "With --quiet only the names are printed. What is listed is what the registry says: see `project reconcile`."
)]
pub(super) struct Ls {}

/// Arguments of `project logs`.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Only so many lines, the last ones
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Name of the project
    name: String,
}

pub(super) async fn get(name: &str, at: &Place<'_>) -> Outcome {
    let registry = at.list().await?;
    let project = registry.get_project(name).await?;
    if at.context.json {
        return at.context.print_json(&project);
    }
    let row = |name: &str, value: &str| [name.to_owned(), printable(value.as_bytes())];
    let mut table = Table::bare();
    table.row(row("name", &project.name));
    if !project.description.is_empty() {
        table.row(row("description", &project.description));
    }
    table.row(row("image", &project.image));
    table.row(row("status", project.status.as_str()));
    table.row(row("created", &project.created.to_string()));
    for (key, value) in &project.env {
        table.row(row("env", &format!("{key}={value}")));
    }
    for port in &project.ports {
        table.row(row("publish", port));
    }
    if !project.command.is_empty() {
        table.row(row("command", &project.command.join(" ")));
    }
    if let Ok(path) = registry.get_project_path(name) {
        table.row(row("path", &path.to_string_lossy()));
    }
    at.context.print(&table.render())
}

pub(super) async fn ls(at: &Place<'_>) -> Outcome {
    let projects = at.list().await?.list_projects().await?;
    if at.context.json {
        return at.context.print_json(&projects);
    }
    if at.context.quiet {
        return at.context.print_ids(&projects.into_iter().map(|project| project.name).collect::<Vec<_>>());
    }
    let now = OffsetDateTime::now_utc();
    let mut table = Table::new(&["NAME", "STATUS", "IMAGE", "CREATED", "DESCRIPTION"]);
    for project in &projects {
        table.row([
            printable(project.name.as_bytes()),
            project.status.to_string(),
            printable(project.image.as_bytes()),
            ago(project.created, now),
            printable(project.description.as_bytes()),
        ]);
    }
    at.context.print(&table.render())
}

pub(super) async fn status(name: &str, at: &Place<'_>) -> Outcome {
    let registry = at.registry().await?;
    let project = registry.get_project(name).await?;
    let containers = registry.containers().ok_or_else(|| Failure::internal("no manager of containers"))?;
    let status = containers.get_project_status(name).await;
    if at.context.json {
        return at.context.print_json(&status);
    }
    let state = if status.running { "running" } else { "stopped" };
    let mut table = Table::bare();
    table.row(["project", &project.name]);
    table.row(["status", state]);
    if !status.container_id.is_empty() {
        table.row(["vessel", &status.container_id]);
        table.row(["image", &status.image]);
    }
    if let Some(created) = status.created {
        table.row(["created", &created.to_string()]);
    }
    at.context.print(&table.render())
}

pub(super) async fn logs(args: &Logs, at: &Place<'_>) -> Outcome {
    let registry = at.registry().await?;
    registry.get_project(&args.name).await?;
    let containers = registry.containers().ok_or_else(|| Failure::internal("no manager of containers"))?;
    let logs = containers.get_logs(&args.name, args.tail).await?;
    match at.context.json {
        true => at.context.print_json(&json!({ "logs": logs })),
        false => at.context.print(&logs),
    }
}

pub(super) async fn path(name: &str, at: &Place<'_>) -> Outcome {
    let path = at.list().await?.get_project_path(name)?;
    match at.context.json {
        true => at.context.print_json(&json!({ "path": path })),
        false => at.context.print_line(&path.to_string_lossy()),
    }
}
