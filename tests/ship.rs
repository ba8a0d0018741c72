//! Ships: what a session is asked for and answers, by the messages of the original.
#![forbid(unsafe_code)]

mod bounds;
mod files;
mod python;
mod shell;
mod transfer;
mod users;

use serde_json::{Value, json};
use vesselrt::serve::ship::{Limits, Ship};
use vesselrt::{Manager, Vessel};

use crate::testkit::{BASE, Store};

/// The session of most tests, and its user.
const ANN: &str = "ann00000-1111";
const ANNS: &str = "ship_ann00000";
const BOB: &str = "bob00000-2222";

/// A ship of the small image.
struct Fleet {
    manager: Manager,
    ship: Ship,
}

impl Fleet {
    async fn new(store: &Store) -> Self {
        let manager = store.stocked().await;
        let vessel = manager.create_vessel(BASE, "/").await.unwrap();
        Self { manager, ship: Ship::new(vessel, Limits::default()) }
    }

    fn vessel(&self) -> &Vessel {
        self.ship.vessel()
    }

    /// What an operation answers, which must be this status.
    #[track_caller]
    fn asks(
        &self,
        session: &str,
        operation: &str,
        payload: Value,
        status: u16,
    ) -> impl Future<Output = Value> {
        let place = std::panic::Location::caller();
        let asked = format!("{place}: {operation} {payload}");
        async move {
            let answer = self.ship.operate(session, operation, payload).await;
            assert_eq!(answer.status, status, "{asked}: {}", answer.body);
            answer.body
        }
    }

    async fn ann(&self, operation: &str, payload: Value) -> Value {
        self.asks(ANN, operation, payload, 200).await
    }

    /// The detail of an answer that is an error.
    async fn refuses(&self, operation: &str, payload: Value, status: u16) -> String {
        let body = self.asks(ANN, operation, payload, status).await;
        body["detail"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
    }

    /// What a command writes that must succeed.
    async fn sh(&self, session: &str, command: &str) -> String {
        let body = self.asks(session, "shell/exec", json!({"command": command}), 200).await;
        assert_eq!(body["success"], true, "{command}: {body}");
        body["stdout"].as_str().unwrap().to_owned()
    }

    async fn end(self) {
        self.ship.close().await;
        drop(self.manager);
    }
}
