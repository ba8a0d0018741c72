//! [`Session`]: what a ship knows of one of its sessions.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;

use super::kernel::{Door, Kernel};
use super::payload::{Answer, Refusal, take};
use super::users::User;
use crate::Vessel;

/// Seconds that code may take when nobody says.
const TIMEOUT: i64 = 30;
/// Commands of a session that have left something running: when there is one more, what the oldest left ends.
const MOST_LEFT: usize = 64;

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
    /// What its commands left running, the oldest first.
    left: Mutex<VecDeque<JoinHandle<()>>>,
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

    /// Ends what its commands left running.
    pub(super) fn end_left(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.drain(..).for_each(|left| left.abort());
    }

    /// Ends its Python; false when there is none.
    pub(super) fn end_kernel(&self) -> bool {
        self.kernel().take().is_some()
    }

    /// Keeps what a command left running until the session ends.
    pub(super) fn leave(&self, left: JoinHandle<()>) {
        let mut all = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|left| !left.is_finished());
        all.push_back(left);
        if all.len() > MOST_LEFT
            && let Some(oldest) = all.pop_front()
        {
            oldest.abort();
        }
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

impl Drop for Session {
    fn drop(&mut self) {
        let left = self.left.get_mut().unwrap_or_else(PoisonError::into_inner);
        left.iter().for_each(JoinHandle::abort);
    }
}
