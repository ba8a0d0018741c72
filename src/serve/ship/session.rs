//! [`Session`]: what a ship knows of one of its sessions.
#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::{OnceCell, watch};

use super::kernel::{Door, Kernel};
use super::payload::{Answer, Refusal, take};
use super::users::User;
use crate::Vessel;

/// Seconds that code may take when nobody says.
const TIMEOUT: i64 = 30;

#[derive(Debug, serde::Deserialize)]
struct Code {
    code: String,
    #[serde(default)]
    timeout: Option<i64>,
    #[serde(default)]
    silent: bool,
}

/// What a ship knows of one of its sessions.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) user: OnceCell<User>,
    kernel: Mutex<Option<Kernel>>,
    /// Turns true when it ends.
    pub(super) ended: watch::Sender<bool>,
}

impl Session {
    /// Its Python, started if there is none.
    fn door(&self, vessel: &Vessel, user: &User) -> Door {
        self.kernel().get_or_insert_with(|| Kernel::start(vessel, user)).door()
    }

    fn kernel(&self) -> MutexGuard<'_, Option<Kernel>> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends its Python; false when there is none.
    pub(super) fn end_kernel(&self) -> bool {
        self.kernel().take().is_some()
    }

    fn status(&self) -> Option<&'static str> {
        self.kernel().as_ref().map(|kernel| if kernel.is_alive() { "alive" } else { "dead" })
    }

    /// `ipython/` and `name`.
    pub(super) async fn python(
        &self,
        vessel: &Vessel,
        id: &str,
        name: &str,
        payload: &Value,
    ) -> Option<Answer> {
        let user = self.user.get()?;
        Some(match name {
            "exec" => self.exec(vessel, user, id, payload).await,
            "create_kernel" => {
                self.door(vessel, user);
                Answer::ok(json!({
                    "success": true,
                    "kernel_id": id,
                    "workspace": user.workspace,
                    "message": format!("Kernel for session {id} created successfully"),
                }))
            }
            "kernel" if self.end_kernel() => Answer::ok(json!({
                "success": true,
                "message": format!("Kernel for session {id} shutdown successfully"),
            })),
            // Those of other sessions are nobody's business.
            "kernels" => {
                let own =
                    self.status().map(|status| json!({"kernel_id": id, "status": status, "connections": 1}));
                Answer::ok(json!({"kernels": own.into_iter().collect::<Vec<Value>>()}))
            }
            "kernel/status" | "kernel" => match self.status() {
                Some(status) => Answer::ok(json!({
                    "session_id": id,
                    "kernel_id": id,
                    "status": status,
                    "workspace": user.workspace,
                    "has_kernel": true,
                })),
                None => Refusal::new(404, format!("Kernel for session {id} not found")).into(),
            },
            _ => return None,
        })
    }

    async fn exec(&self, vessel: &Vessel, user: &User, id: &str, payload: &Value) -> Answer {
        let request: Code = match take(payload) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        let seconds = u64::try_from(request.timeout.unwrap_or(TIMEOUT)).unwrap_or(0);
        let door = self.door(vessel, user);
        let ran = door.run(request.code, request.silent, std::time::Duration::from_secs(seconds)).await;
        let images: Vec<Value> = ran.images.into_iter().map(|png| json!({"image/png": png})).collect();
        Answer::ok(json!({
            "success": ran.error.is_none(),
            "execution_count": ran.count,
            "output": {"text": ran.text, "images": images},
            "error": ran.error,
            "kernel_id": id,
        }))
    }
}
