//! Every SDK that can be installed here: its own success signal, the POSTs it made, and the exact events in Keen.

mod browser;
mod docs;
mod expected;
mod sdk;
mod suite;

use sdk::{go, java, node, python, rust};

#[tokio::test]
async fn sdks_of_npm() {
    suite::all(&node().await).await;
}

#[tokio::test]
async fn sdks_of_pypi() {
    suite::all(&python().await).await;
}

#[tokio::test]
async fn sdk_for_go() {
    suite::all(&go().await).await;
}

#[tokio::test]
async fn sdk_for_java() {
    suite::all(&java().await).await;
}

#[tokio::test]
async fn sdk_for_rust() {
    suite::all(&rust().await).await;
}
