//! Verification by emojis, in either role, with other people and with devices of one's own.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex},
};

use matrix_sdk::{
    Client,
    encryption::verification::{
        SasVerification, Verification, VerificationRequest, VerificationRequestState,
    },
    ruma::{
        OwnedUserId,
        events::{
            key::verification::request::ToDeviceKeyVerificationRequestEvent,
            room::message::{MessageType, OriginalSyncRoomMessageEvent},
        },
    },
};
use serde::Deserialize;
use serde_json::{Value, from_value, json};

use crate::{Answer, waiting::until};

type Incoming = Arc<Mutex<Vec<(OwnedUserId, String)>>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wish {
    timeout_ms: u64,
    #[serde(default)]
    handle: usize,
    user_id: Option<OwnedUserId>,
}

/// A verification in progress; `sas` once it has come to the emojis.
struct Open {
    request: VerificationRequest,
    sas: Option<SasVerification>,
}

/// The verifications of a device; a handle is an index.
#[derive(Default)]
pub struct Verifications {
    incoming: Incoming,
    open: RefCell<Vec<Open>>,
}

impl Verifications {
    /// Remembers who asks, whether by a to-device message or in a room.
    pub fn follow(&self, client: &Client) {
        let incoming = self.incoming.clone();
        client.add_event_handler(async move |event: ToDeviceKeyVerificationRequestEvent| {
            let flow = event.content.transaction_id.to_string();
            incoming.lock().unwrap().push((event.sender, flow));
        });
        let incoming = self.incoming.clone();
        client.add_event_handler(async move |event: OriginalSyncRoomMessageEvent| {
            if let MessageType::VerificationRequest(_) = event.content.msgtype {
                incoming
                    .lock()
                    .unwrap()
                    .push((event.sender, event.event_id.to_string()));
            }
        });
    }

    /// Calls a method, if it is one of these.
    pub async fn call(&self, client: &Client, method: &str, params: &Value) -> Option<Answer> {
        let wish = || -> Result<Wish, _> { from_value(params.clone()) };
        Some(match (method, wish()) {
            ("requests_verification", Ok(wish)) => self.request(client, wish).await,
            ("accepts_verification", Ok(wish)) => self.accept(client, wish).await,
            ("starts_sas", Ok(wish)) => self.start(wish).await,
            ("emojis", Ok(wish)) => self.emojis(wish).await,
            ("confirms_emojis", Ok(wish)) => self.confirm(wish).await,
            ("verification_done", Ok(wish)) => self.done(wish).await,
            ("trust_becomes", Ok(wish)) => self.trust(client, wish).await,
            _ => return None,
        })
    }

    fn keep(&self, request: VerificationRequest) -> Answer {
        let mut open = self.open.borrow_mut();
        open.push(Open { request, sas: None });
        Ok(json!({ "handle": open.len() - 1 }))
    }

    fn request_of(&self, wish: &Wish) -> VerificationRequest {
        self.open.borrow()[wish.handle].request.clone()
    }

    fn sas_of(&self, wish: &Wish) -> Result<SasVerification, Box<dyn std::error::Error>> {
        Ok(self.open.borrow()[wish.handle]
            .sas
            .clone()
            .ok_or("it has not come to the emojis")?)
    }

    /// Asks another person, in the room that is direct with them.
    async fn request(&self, client: &Client, wish: Wish) -> Answer {
        let user_id = wish.user_id.ok_or("no userId")?;
        let identity = client.encryption().request_user_identity(&user_id).await?;
        self.keep(
            identity
                .ok_or("they have no identity")?
                .request_verification()
                .await?,
        )
    }

    /// Takes the next request of that person, and accepts it.
    async fn accept(&self, client: &Client, wish: Wish) -> Answer {
        let user_id = wish.user_id.ok_or("no userId")?;
        let request = until("a verification request", wish.timeout_ms, async || {
            let found = {
                let mut incoming = self.incoming.lock().unwrap();
                let at = incoming.iter().position(|(sender, _)| *sender == user_id);
                at.map(|at| incoming.remove(at))
            };
            let Some((sender, flow)) = found else {
                return Ok(None);
            };
            Ok(client
                .encryption()
                .get_verification_request(&sender, flow)
                .await)
        })
        .await?;
        request.accept().await?;
        self.keep(request)
    }

    /// Chooses emojis once the other side is ready. Only one of the two calls this.
    async fn start(&self, wish: Wish) -> Answer {
        let request = self.request_of(&wish);
        until("the other side to be ready", wish.timeout_ms, async || {
            Ok(request.is_ready().then_some(()))
        })
        .await?;
        let sas = request
            .start_sas()
            .await?
            .ok_or("the other side cannot show emojis")?;
        self.open.borrow_mut()[wish.handle].sas = Some(sas);
        Ok(json!({}))
    }

    /// What this side shows to its person: signs with their names, and three numbers.
    async fn emojis(&self, wish: Wish) -> Answer {
        if self.sas_of(&wish).is_err() {
            let request = self.request_of(&wish);
            let sas = until(
                "the other side to choose emojis",
                wish.timeout_ms,
                async || {
                    Ok(match request.state() {
                        VerificationRequestState::Transitioned {
                            verification: Verification::SasV1(sas),
                        } => Some(sas),
                        _ => None,
                    })
                },
            )
            .await?;
            sas.accept().await?;
            self.open.borrow_mut()[wish.handle].sas = Some(sas);
        }
        let sas = self.sas_of(&wish)?;
        let emojis = until("the emojis", wish.timeout_ms, async || {
            check(&sas)?;
            Ok(sas.emoji())
        })
        .await?;
        let emojis: Vec<_> = emojis
            .iter()
            .map(|each| (each.symbol, each.description))
            .collect();
        Ok(json!({ "emojis": emojis, "decimals": sas.decimals() }))
    }

    async fn confirm(&self, wish: Wish) -> Answer {
        self.sas_of(&wish)?.confirm().await?;
        Ok(json!({}))
    }

    async fn done(&self, wish: Wish) -> Answer {
        let sas = self.sas_of(&wish)?;
        until(
            "the verification to complete",
            wish.timeout_ms,
            async || {
                check(&sas)?;
                Ok(sas.is_done().then_some(()))
            },
        )
        .await?;
        Ok(json!({}))
    }

    /// Waits until the person counts as verified.
    async fn trust(&self, client: &Client, wish: Wish) -> Answer {
        let user_id = wish.user_id.ok_or("no userId")?;
        until("the person to be verified", wish.timeout_ms, async || {
            let identity = client.encryption().get_user_identity(&user_id).await?;
            Ok(identity.filter(|identity| identity.is_verified()))
        })
        .await?;
        Ok(json!({ "verified": true }))
    }
}

/// Fails when either side has cancelled: who waits should not wait for the time-out.
fn check(sas: &SasVerification) -> Result<(), Box<dyn std::error::Error>> {
    match sas.cancel_info() {
        Some(info) => Err(format!("the verification was cancelled: {}", info.reason()).into()),
        None => Ok(()),
    }
}
