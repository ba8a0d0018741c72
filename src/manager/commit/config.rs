//! The configuration and manifest of a committed image: the base's, with the vessel's layers on top.
//!
//! Source: image-spec config.md, manifest.md, annotations.md. The same input always gives the same bytes.
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vesselrt_storage::Digest;
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::image::media_type;

use super::CommitOptions;
use super::change::{self, Config};
use crate::error::{Error, Result};

/// A layer of the vessel, for the configuration.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) created: OffsetDateTime,
    pub(super) created_by: String,
    pub(super) comment: String,
}

/// What is said besides the layers.
#[derive(Debug)]
pub(super) struct About<'a> {
    /// Where commands begin in the vessel.
    pub(super) work_dir: &'a str,
    /// When the image's content was last changed.
    pub(super) created: OffsetDateTime,
    pub(super) options: &'a CommitOptions,
}

fn rfc3339(time: OffsetDateTime) -> Result<String> {
    time.format(&Rfc3339).map_err(|e| Error::internal("failed to write a time").with_source(e))
}

/// The configuration as JSON. `base` is that of the base image, with `base_layers` layers.
pub(super) fn configuration(
    base: &[u8],
    base_layers: usize,
    layers: &[Layer],
    about: &About<'_>,
) -> Result<Vec<u8>> {
    let damaged = || Error::integrity("the configuration of the base image is damaged");
    let base: Value = serde_json::from_slice(base).map_err(|e| damaged().with_source(e))?;
    let base = base.as_object().ok_or_else(damaged)?;
    let mut made = Map::new();
    for key in ["architecture", "os", "variant", "os.version", "os.features", "author"] {
        if let Some(value) = base.get(key).filter(|value| !value.is_null() && **value != "") {
            made.insert(key.into(), value.clone());
        }
    }
    if let Some(author) = &about.options.author {
        made.insert("author".into(), author.as_str().into());
    }
    made.insert("created".into(), rfc3339(about.created)?.into());
    let config = base.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    made.insert("config".into(), Value::Object(changed(config, about)?));
    let mut diff_ids: Vec<Value> =
        base.get("rootfs").and_then(|rootfs| rootfs["diff_ids"].as_array()).cloned().ok_or_else(damaged)?;
    diff_ids.extend(layers.iter().map(|layer| layer.diff_id.to_string().into()));
    made.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));
    made.insert("history".into(), history(base, base_layers, layers, about)?.into());
    serde_json::to_vec(&made).map_err(|e| Error::internal("failed to write a configuration").with_source(e))
}

/// The base's `config` with what the vessel and the user changed.
fn changed(mut config: Config, about: &About<'_>) -> Result<Config> {
    config.retain(|_, value| !value.is_null());
    let known = config.get("WorkingDir").and_then(Value::as_str).is_some_and(|dir| !dir.is_empty());
    if known || about.work_dir != "/" {
        config.insert("WorkingDir".into(), about.work_dir.into());
    }
    let changes = &about.options.changes;
    if change::drops_command(changes) {
        config.remove("Cmd");
    }
    for text in changes {
        change::apply(&mut config, text)
            .map_err(|e| Error::invalid(format!("invalid change of the image: {text:?}")).with_source(e))?;
    }
    Ok(config)
}

/// One entry for each layer, as tools that count them expect, and one for each change.
fn history(
    base: &Map<String, Value>,
    base_layers: usize,
    layers: &[Layer],
    about: &About<'_>,
) -> Result<Vec<Value>> {
    let mut history: Vec<Value> = base.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
    let counted = history.iter().filter(|entry| entry["empty_layer"] != true).count();
    // A base that does not say enough of its layers, or too much.
    if counted != base_layers {
        history = vec![json!({ "created_by": "base image" }); base_layers];
    }
    let author = about.options.author.as_deref();
    let entry = |created, created_by: &str, comment: &str| -> Result<Value> {
        let mut entry = json!({ "created": rfc3339(created)?, "created_by": created_by });
        if !comment.is_empty() {
            entry["comment"] = comment.into();
        }
        if let Some(author) = author {
            entry["author"] = author.into();
        }
        Ok(entry)
    };
    for layer in layers {
        history.push(entry(layer.created, &layer.created_by, &layer.comment)?);
    }
    let message = about.options.message.as_deref().unwrap_or_default();
    let changes = about.options.changes.iter().map(|text| (text.trim(), ""));
    let said = (!message.is_empty()).then_some(("vesselrt commit", message));
    for (created_by, comment) in changes.chain(said) {
        let mut entry = entry(about.created, created_by, comment)?;
        entry["empty_layer"] = true.into();
        history.push(entry);
    }
    Ok(history)
}

/// The manifest as JSON.
pub(super) fn manifest(
    config: &Descriptor,
    layers: &[Descriptor],
    base: (&str, &str),
    created: OffsetDateTime,
) -> Result<Vec<u8>> {
    let (name, digest) = base;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": config,
        "layers": layers,
        "annotations": {
            "org.opencontainers.image.base.digest": digest,
            "org.opencontainers.image.base.name": name,
            "org.opencontainers.image.created": rfc3339(created)?,
        },
    });
    serde_json::to_vec(&manifest).map_err(|e| Error::internal("failed to write a manifest").with_source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(n: u8) -> Layer {
        Layer {
            descriptor: Descriptor::new(media_type::OCI_LAYER, Digest::sha256(&[n]), 1),
            diff_id: Digest::sha256(&[n]),
            created: OffsetDateTime::UNIX_EPOCH,
            created_by: "snapshot".into(),
            comment: "said".into(),
        }
    }

    fn made(base: &Value, base_layers: usize, options: &CommitOptions) -> Value {
        let about = About { work_dir: "/", created: OffsetDateTime::UNIX_EPOCH, options };
        let bytes =
            configuration(&serde_json::to_vec(base).unwrap(), base_layers, &[layer(1)], &about).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    fn base(history: &Value) -> Value {
        let id = Digest::sha256(b"base").to_string();
        json!({
            "architecture": "amd64", "os": "linux", "variant": "", "docker_version": "20", "container": "x",
            "config": { "Env": ["A=1"], "Cmd": ["sh"], "Labels": { "k": "v" }, "User": "me", "Volumes": null },
            "rootfs": { "type": "layers", "diff_ids": [id] },
            "history": history,
        })
    }

    #[test]
    fn the_base_is_carried_over_and_the_layers_follow() {
        let made = made(&base(&json!([{ "created_by": "x" }])), 1, &CommitOptions::new("x"));
        assert_eq!(
            made["config"],
            json!({ "Env": ["A=1"], "Cmd": ["sh"], "Labels": { "k": "v" }, "User": "me" })
        );
        assert_eq!(made["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        assert_eq!(made["history"].as_array().unwrap().len(), 2);
        assert_eq!(made["history"][1]["comment"], "said");
        assert_eq!(made["created"], "1970-01-01T00:00:00Z");
        assert!(made.get("variant").is_none() && made.get("container").is_none());
    }

    #[test]
    fn there_is_one_history_entry_for_each_layer_whatever_the_base_says() {
        for history in [json!(null), json!([]), json!([{}, {}]), json!([{ "empty_layer": true }])] {
            let made = made(&base(&history), 1, &CommitOptions::new("x"));
            let entries = made["history"].as_array().unwrap();
            assert_eq!(entries.iter().filter(|entry| entry["empty_layer"] != true).count(), 2, "{history}");
        }
    }

    #[test]
    fn changes_and_the_message_are_told_without_layers() {
        let options = CommitOptions::new("x").change("ENTRYPOINT [\"/i\"]").message("hello").author("me");
        let made = made(&base(&json!([{}])), 1, &options);
        assert!(made["config"].get("Cmd").is_none());
        let entries = made["history"].as_array().unwrap();
        assert_eq!(entries.len(), 4);
        assert_eq!((&entries[2]["empty_layer"], &entries[3]["comment"]), (&json!(true), &json!("hello")));
        assert_eq!((&made["author"], &entries[1]["author"]), (&json!("me"), &json!("me")));
    }
}
