//! Every SDK that can be installed here: its own report of each call, the POSTs it made, and the
//! exact events in Keen.

mod browser;
mod docs;
mod expected;
mod kotlin;
mod legacy;
mod sdk;
mod snippet;
mod suite;

use clients::install;

#[tokio::test]
async fn npm_sdks_under_faults_deliver_each_event_once() {
    suite::run(&sdk::node(&install("node").await)).await;
}

#[tokio::test]
async fn pypi_sdks_under_faults_deliver_each_event_once() {
    suite::run(&sdk::python(&install("python").await)).await;
}

#[tokio::test]
async fn go_sdk_under_faults_delivers_each_event_once() {
    suite::run(&sdk::go(&install("go").await)).await;
}

#[tokio::test]
async fn maven_sdks_under_faults_deliver_each_event_once() {
    suite::run(&sdk::java(&install("java").await)).await;
}

#[tokio::test]
async fn kotlin_sdk_under_faults_delivers_each_event_once() {
    suite::run(&sdk::kotlin(&install("kotlin").await)).await;
}

#[tokio::test]
async fn rust_sdk_under_faults_delivers_or_reports() {
    suite::run(&sdk::rust(&install("rust").await)).await;
}
