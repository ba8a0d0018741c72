//! The description of the API, OpenAPI 3.1.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use axum::http::{Method, header};
use axum::response::IntoResponse;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::{about, answer, exec, files, history, sessions, ships, terminal};

/// The name of how clients say who they are.
const TOKEN: &str = "token";
/// What everybody may ask.
const OPEN: [&str; 3] = ["/", "/health", "/stat"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "vesselrt serve",
        description = "Ships: workspaces with a shell, files and Python, shared by sessions. Compatible with Shipyard's Bay.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        about::root, about::health, about::stat, about::overview, about::metrics,
        ships::list, ships::create, ships::get, ships::delete, ships::delete_for_ever, ships::start, ships::extend, ships::logs,
        exec::exec, exec::kill, files::upload, files::download, terminal::connect,
        sessions::list, sessions::get, sessions::of_ship, sessions::extend, sessions::delete,
        history::create, history::list, history::restore, history::fork, history::diff,
    ),
    components(schemas(answer::Detail, answer::Invalidity)),
    modifiers(&Common),
)]
struct Api;

/// What all operations have in common.
struct Common;

impl Modify for Common {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        if let Some(components) = &mut api.components {
            let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
            components.add_security_scheme(TOKEN, scheme);
        }
        for (path, item) in &mut api.paths.paths {
            let open = OPEN.contains(&path.as_str());
            for operation in operations(item) {
                describe(operation, open);
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten()
}

fn describe(operation: &mut Operation, open: bool) {
    add(operation, "400", "Detail", "The request is malformed");
    add(operation, "403", "Detail", "There is no token, or the host or the origin is not allowed");
    if open {
        return;
    }
    operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(TOKEN, [])]);
    add(operation, "401", "Detail", "The token is wrong");
    add(operation, "422", "Invalidity", "Something is missing, or is not what it must be");
    if operation.request_body.is_some() {
        add(operation, "408", "Detail", "The body did not arrive in time");
        add(operation, "413", "Detail", "The body is too large");
    }
    add(operation, "500", "Detail", "It failed; or there are as many ships as may be");
    add(operation, "503", "Detail", "The service is shutting down, or the disk is full");
}

fn add(operation: &mut Operation, status: &str, schema: &str, description: &str) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
    let response =
        ResponseBuilder::new().description(description).content("application/json", content).build();
    operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(response));
}

/// The description.
pub(super) async fn document(_: Method) -> impl IntoResponse {
    static DOCUMENT: LazyLock<String> =
        LazyLock::new(|| Api::openapi().to_json().expect("it is a map with text as keys"));
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
}

/// Its operations as method, path, summary, for the page.
pub(super) fn summary() -> Vec<(&'static str, String, String)> {
    let mut api = Api::openapi();
    let mut all = Vec::new();
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in [("GET", &item.get), ("POST", &item.post), ("DELETE", &item.delete)] {
            let Some(operation) = operation else { continue };
            all.push((method, path.clone(), operation.summary.clone().unwrap_or_default()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_operation_says_what_it_answers() {
        let api: Value = serde_json::from_str(&Api::openapi().to_json().unwrap()).unwrap();
        assert!(api["openapi"].as_str().unwrap().starts_with("3.1"));
        let create = &api["paths"]["/ship"]["post"];
        for status in ["201", "400", "401", "403", "408", "413", "422", "500", "503"] {
            assert!(create["responses"][status].is_object(), "{status}: {create}");
        }
        assert_eq!(create["security"][0][TOKEN], serde_json::json!([]));
        assert!(api["paths"]["/health"]["get"]["security"].is_null());
        assert_eq!(api["components"]["schemas"]["CreateShip"]["additionalProperties"], false);
        for name in ["Detail", "Invalidity", "Ship", "Session", "ExtendTtl"] {
            assert!(api["components"]["schemas"][name].is_object(), "{name}");
        }
        assert_eq!(summary().len(), 28);
    }
}
