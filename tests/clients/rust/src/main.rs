//! A Matrix client that another program drives: one process is one device of matrix-rust-sdk, with
//! the services that Element X is built on.
//!
//! Each line of standard input is `{"id", "method", "params"}`, the methods being those of `Device`,
//! `Session` and `Verifications`. Each line of standard output is `{"id", "result"}` or `{"id", "error":
//! {message}}`, in the order of completion, so that long waits do not hold up anything. What goes
//! wrong beside that is written to standard error. The process ends with its standard input.

// The SDK's futures are deep.
#![recursion_limit = "256"]

mod device;
mod session;
mod verification;
mod waiting;

use std::{error::Error, rc::Rc};

use device::Device;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    task::{LocalSet, spawn_local},
};

/// What a method returns.
pub type Answer = Result<Value, Box<dyn Error>>;

#[derive(Deserialize)]
struct Call {
    id: u64,
    method: String,
    #[serde(default)]
    params: Value,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing else chooses the cryptography of TLS");
    LocalSet::new().run_until(serve()).await
}

/// Answers the lines of standard input until it ends.
async fn serve() -> Result<(), Box<dyn Error>> {
    let device = Rc::new(Device::default());
    write(&json!({ "id": 0, "result": { "ready": true } }));
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let call: Call = serde_json::from_str(&line)?;
        let device = device.clone();
        spawn_local(async move {
            write(&match device.call(&call.method, call.params).await {
                Ok(result) => json!({ "id": call.id, "result": result }),
                Err(error) => json!({ "id": call.id, "error": { "message": error.to_string() } }),
            });
        });
    }
    // Its background tasks would keep the runtime alive.
    std::process::exit(0)
}

fn write(line: &Value) {
    println!("{line}");
}
