//! The session of a device: by password, through a browser (OAuth 2.0), or kept from before; and what
//! a new device of somebody who has others needs to read on, the recovery key.

use std::{cell::RefCell, error::Error};

use matrix_sdk::{
    Client, SessionMeta, SessionTokens,
    authentication::{
        matrix::MatrixSession,
        oauth::registration::{ApplicationType, ClientMetadata, Localized, OAuthGrantType},
    },
    encryption::{BackupDownloadStrategy, EncryptionSettings},
    reqwest::Url,
    ruma::serde::Raw,
    store::RoomLoadSettings,
};
use serde::Deserialize;
use serde_json::{Value, from_value, json};

use crate::{Answer, verification::Verifications};

/// Where the client is at home: `store` is the folder of its databases.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Home {
    base_url: String,
    store: String,
}

#[derive(Default)]
pub struct Session {
    client: RefCell<Option<Client>>,
}

impl Session {
    pub fn client(&self) -> Result<Client, Box<dyn Error>> {
        Ok(self.client.borrow().clone().ok_or("not signed in")?)
    }

    /// Calls a method, if it is one of these.
    pub async fn call(
        &self,
        verifications: &Verifications,
        method: &str,
        params: &Value,
    ) -> Option<Answer> {
        if matches!(method, "login" | "restore" | "begins_oauth") {
            match build(params).await {
                Ok(client) => {
                    verifications.follow(&client);
                    *self.client.borrow_mut() = Some(client);
                }
                Err(error) => return Some(Err(error)),
            }
        }
        Some(match method {
            "login" => self.login(params).await,
            "restore" => self.restore(params).await,
            "begins_oauth" => self.begin_oauth(params).await,
            "completes_oauth" => self.complete_oauth(params).await,
            "refreshes" => self.refresh().await,
            "recovers" => self.recover(params).await,
            _ => return None,
        })
    }

    async fn login(&self, params: &Value) -> Answer {
        let client = self.client()?;
        let login = client
            .matrix_auth()
            .login_username(text(params, "userId")?, text(params, "password")?);
        login.initial_device_display_name("rust").send().await?;
        self.begun().await
    }

    /// Goes on with the session and the databases of a process that has ended.
    async fn restore(&self, params: &Value) -> Answer {
        let session = MatrixSession {
            meta: SessionMeta {
                user_id: from_value(params["userId"].clone())?,
                device_id: from_value(params["deviceId"].clone())?,
            },
            tokens: SessionTokens {
                access_token: text(params, "accessToken")?.to_owned(),
                refresh_token: None,
            },
        };
        let client = self.client()?;
        let all = RoomLoadSettings::default();
        client.matrix_auth().restore_session(session, all).await?;
        self.begun().await
    }

    /// Registers as a native application; returns the page that the person is to open.
    async fn begin_oauth(&self, params: &Value) -> Answer {
        let redirect_uri = Url::parse(text(params, "redirectUri")?)?;
        // Registered without the port, which may be another one at each signing in.
        let mut registered = redirect_uri.clone();
        registered.set_port(None).map_err(|()| "no host")?;
        let grant = OAuthGrantType::AuthorizationCode {
            redirect_uris: vec![registered],
        };
        let home_page = Localized::new(Url::parse("https://letterbox.example/")?, []);
        let mut metadata = ClientMetadata::new(ApplicationType::Native, vec![grant], home_page);
        metadata.client_name = Some(Localized::new("Letterbox".to_owned(), []));
        let oauth = self.client()?.oauth();
        let registration = Raw::new(&metadata)?.into();
        let begun = oauth
            .login(redirect_uri, None, Some(registration), None)
            .build()
            .await?;
        Ok(json!({ "url": begun.url }))
    }

    /// Takes the address to which the browser came back.
    async fn complete_oauth(&self, params: &Value) -> Answer {
        let address = Url::parse(text(params, "address")?)?;
        self.client()?.oauth().finish_login(address.into()).await?;
        self.begun().await
    }

    /// Waits until the device's keys, and the identity if it is the first device, are made.
    async fn begun(&self) -> Answer {
        let client = self.client()?;
        client
            .encryption()
            .wait_for_e2ee_initialization_tasks()
            .await;
        Ok(json!({
            "user_id": client.user_id(),
            "device_id": client.device_id(),
            "access_token": client.access_token(),
        }))
    }

    async fn refresh(&self) -> Answer {
        let client = self.client()?;
        client.refresh_access_token().await?;
        Ok(json!({ "access_token": client.access_token() }))
    }

    /// Unlocks secret storage: this device signs itself and learns the backup's key.
    async fn recover(&self, params: &Value) -> Answer {
        let recovery = self.client()?.encryption().recovery();
        recovery.recover(text(params, "recoveryKey")?).await?;
        Ok(json!({}))
    }
}

/// A client with the settings of Element X: the first device makes an identity, and the backup is
/// used when a message cannot be read.
async fn build(params: &Value) -> Result<Client, Box<dyn Error>> {
    let home: Home = from_value(params.clone())?;
    let client = Client::builder()
        .homeserver_url(&home.base_url)
        .sqlite_store(&home.store, None)
        .handle_refresh_tokens()
        .with_encryption_settings(EncryptionSettings {
            auto_enable_cross_signing: true,
            auto_enable_backups: true,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
        });
    Ok(client.build().await?)
}

fn text<'a>(params: &'a Value, name: &str) -> Result<&'a str, Box<dyn Error>> {
    Ok(params[name].as_str().ok_or_else(|| format!("no {name}"))?)
}
