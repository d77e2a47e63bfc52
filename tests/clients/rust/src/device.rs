//! One device of one person: its list of rooms, and the rooms it has open.

use std::{cell::RefCell, collections::HashMap, pin::pin, rc::Rc};

use futures_util::{StreamExt, future::join_all};
use matrix_sdk::{
    Room, RoomState,
    ruma::{
        OwnedRoomId, OwnedUserId, api::client::receipt::create_receipt::v3::ReceiptType,
        api::client::room::create_room, events::room::message::RoomMessageEventContent,
    },
};
use matrix_sdk_ui::{
    eyeball_im::VectorDiff,
    room_list_service::{RoomListItem, filters::new_filter_non_left},
    sync_service::{State, SyncService},
    timeline::{EventTimelineItem, RoomExt, Timeline},
};
use serde::Deserialize;
use serde_json::{Value, from_value, json};

use crate::{Answer, session::Session, verification::Verifications, waiting::until};

/// How many rooms the list shows at most.
const PAGE: usize = 100;

/// The parameters of the methods; each uses some of them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wish {
    timeout_ms: u64,
    room_id: Option<OwnedRoomId>,
    body: Option<String>,
    #[serde(default)]
    invite: Vec<OwnedUserId>,
    notifications: Option<u64>,
    highlights: Option<u64>,
}

#[derive(Default)]
pub struct Device {
    session: Session,
    service: RefCell<Option<Rc<SyncService>>>,
    open: RefCell<HashMap<OwnedRoomId, Rc<Timeline>>>,
    verifications: Verifications,
}

impl Device {
    pub async fn call(&self, method: &str, params: Value) -> Answer {
        let signing_in = self.session.call(&self.verifications, method, &params);
        if let Some(answer) = signing_in.await {
            return answer;
        }
        let client = self.session.client()?;
        if let Some(answer) = self.verifications.call(&client, method, &params).await {
            return answer;
        }
        let wish: Wish = from_value(params)?;
        match method {
            "start" => self.start(wish).await,
            "rooms" => self.rooms().await,
            "lists_first" => self.lists_first(wish).await,
            "create_room" => self.create_room(wish).await,
            "invited" => self.invited(wish).await,
            "join" => self.join(wish).await,
            "says" => self.says(wish).await,
            "reads" => self.reads(wish).await,
            "scrolls_back" => self.scrolls_back(wish).await,
            "marks_read" => self.marks_read(wish).await,
            "unread_becomes" => self.unread_becomes(wish).await,
            _ => Err(format!("no method {method}").into()),
        }
    }

    fn room(&self, wish: &Wish) -> Result<Room, Box<dyn std::error::Error>> {
        let room_id = wish.room_id.as_ref().ok_or("no roomId")?;
        Ok(self
            .session
            .client()?
            .get_room(room_id)
            .ok_or_else(|| format!("does not know {room_id}"))?)
    }

    fn service(&self) -> Result<Rc<SyncService>, Box<dyn std::error::Error>> {
        Ok(self.service.borrow().clone().ok_or("not started")?)
    }

    /// Starts both sliding syncs, that of the rooms and that of the encryption.
    async fn start(&self, wish: Wish) -> Answer {
        let service = Rc::new(SyncService::builder(self.session.client()?).build().await?);
        service.start().await;
        *self.service.borrow_mut() = Some(service.clone());
        until(
            "the service to run",
            wish.timeout_ms,
            async || match service.state().get() {
                State::Running => Ok(Some(())),
                State::Error(error) => Err(error.to_string().into()),
                _ => Ok(None),
            },
        )
        .await?;
        let list = service.room_list_service().all_rooms().await?;
        let state = list.loading_state();
        until("the list of rooms", wish.timeout_ms, async || {
            use matrix_sdk_ui::room_list_service::RoomListLoadingState::Loaded;
            Ok(matches!(state.get(), Loaded { .. }).then_some(()))
        })
        .await?;
        Ok(json!({}))
    }

    // --- rooms --------------------------------------------------------------------------------

    /// The list as it is shown: filtered, sorted by what happened last.
    async fn list(&self) -> Result<Vec<RoomListItem>, Box<dyn std::error::Error>> {
        let list = self.service()?.room_list_service().all_rooms().await?;
        let (entries, control) = list.entries_with_dynamic_adapters(PAGE);
        control.set_filter(Box::new(new_filter_non_left()));
        // The first change is the whole list.
        match pin!(entries)
            .next()
            .await
            .and_then(|mut changes| changes.pop())
        {
            Some(VectorDiff::Reset { values }) => Ok(values.into_iter().collect()),
            change => Err(format!("the list begins with {change:?}").into()),
        }
    }

    async fn rooms(&self) -> Answer {
        let rooms = self.list().await?;
        Ok(json!({ "rooms": join_all(rooms.iter().map(describe)).await }))
    }

    /// Waits until the room is at the top of the list.
    async fn lists_first(&self, wish: Wish) -> Answer {
        let room_id = wish.room_id.as_deref();
        until("the room to come first", wish.timeout_ms, async || {
            let rooms = self.list().await?;
            Ok((rooms.first().map(|room| room.room_id()) == room_id).then_some(()))
        })
        .await?;
        Ok(json!({}))
    }

    async fn create_room(&self, wish: Wish) -> Answer {
        let mut request = create_room::v3::Request::new();
        request.invite = wish.invite;
        let room = self.session.client()?.create_room(request).await?;
        room.enable_encryption().await?;
        Ok(json!({ "room_id": room.room_id() }))
    }

    async fn invited(&self, wish: Wish) -> Answer {
        until("the invitation", wish.timeout_ms, async || {
            let room = self.room(&wish).ok();
            Ok(room.filter(|room| room.state() == RoomState::Invited))
        })
        .await?;
        Ok(json!({ "room_id": wish.room_id }))
    }

    async fn join(&self, wish: Wish) -> Answer {
        self.room(&wish)?.join().await?;
        Ok(json!({ "room_id": wish.room_id }))
    }

    async fn unread_becomes(&self, wish: Wish) -> Answer {
        let room = self.room(&wish)?;
        let wanted = (
            wish.notifications.unwrap_or(0),
            wish.highlights.unwrap_or(0),
        );
        until("the unread counts", wish.timeout_ms, async || {
            let counts = room.unread_notification_counts();
            let shown = (counts.notification_count, counts.highlight_count);
            Ok((shown == wanted).then_some(()))
        })
        .await?;
        Ok(json!({}))
    }

    // --- messages -----------------------------------------------------------------------------

    /// Opens a room as a person does: its timeline, and a subscription to more of it.
    async fn open(&self, wish: &Wish) -> Result<Rc<Timeline>, Box<dyn std::error::Error>> {
        let room = self.room(wish)?;
        if let Some(timeline) = self.open.borrow().get(room.room_id()) {
            return Ok(timeline.clone());
        }
        self.service()?
            .room_list_service()
            .set_room_subscriptions(&[room.room_id()])
            .await;
        let timeline = Rc::new(room.timeline().await?);
        self.open
            .borrow_mut()
            .insert(room.room_id().to_owned(), timeline.clone());
        Ok(timeline)
    }

    /// Waits until the room shows a message with this text, decrypted, that the server has.
    async fn shows(&self, wish: &Wish) -> Result<EventTimelineItem, Box<dyn std::error::Error>> {
        let timeline = self.open(wish).await?;
        let body = wish.body.as_deref().ok_or("no body")?;
        until(
            &format!("the message {body:?}"),
            wish.timeout_ms,
            async || {
                let items = timeline.items().await;
                let events = items.iter().filter_map(|item| item.as_event());
                Ok(events
                    .filter(|event| !event.is_local_echo())
                    .find(|event| {
                        event
                            .content()
                            .as_message()
                            .is_some_and(|m| m.body() == body)
                    })
                    .cloned())
            },
        )
        .await
    }

    async fn says(&self, wish: Wish) -> Answer {
        let timeline = self.open(&wish).await?;
        let body = wish.body.as_deref().ok_or("no body")?;
        timeline
            .send(RoomMessageEventContent::text_plain(body).into())
            .await?;
        Ok(json!({ "event_id": self.shows(&wish).await?.event_id() }))
    }

    async fn reads(&self, wish: Wish) -> Answer {
        let event = self.shows(&wish).await?;
        Ok(json!({
            "event_id": event.event_id(),
            "sender": event.sender(),
            "encrypted": event.encryption_info().is_some(),
        }))
    }

    async fn scrolls_back(&self, wish: Wish) -> Answer {
        let timeline = self.open(&wish).await?;
        while !timeline.paginate_backwards(20).await? {}
        Ok(json!({}))
    }

    async fn marks_read(&self, wish: Wish) -> Answer {
        let timeline = self.open(&wish).await?;
        Ok(json!({ "sent": timeline.mark_as_read(ReceiptType::Read).await? }))
    }
}

async fn describe(room: &RoomListItem) -> Value {
    let counts = room.unread_notification_counts();
    json!({
        "room_id": room.room_id(),
        "name": room.display_name().await.map(|name| name.to_string()).ok(),
        "membership": if room.state() == RoomState::Invited { "invite" } else { "join" },
        "notifications": counts.notification_count,
        "highlights": counts.highlight_count,
    })
}
