//! A certificate for `localhost`, made anew for each environment.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Its files, in PEM, under `target/tmp`.
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// The authority that signed it: what a client must trust.
    pub(crate) authority: PathBuf,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        Self::make().unwrap_or_else(|error| panic!("a certificate for tests: {error}"))
    }

    fn make() -> Result<Self, Box<dyn std::error::Error>> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::new())?;
        // A name of its own: a certificate whose issuer has its own name counts as self-signed.
        params.distinguished_name.push(DnType::CommonName, "keen-edge test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let chain = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        let dir = harness::root().join("target/tmp");
        std::fs::create_dir_all(&dir)?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let write = |what: &str, pem: &str| {
            let path = dir.join(format!("clients-{}-{number}-{what}.pem", std::process::id()));
            std::fs::write(&path, pem).map(|()| path)
        };
        Ok(Self {
            chain: write("chain", &chain.pem())?,
            key: write("key", &key.serialize_pem())?,
            authority: write("authority", &authority.pem())?,
        })
    }
}
