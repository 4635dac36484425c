//! A new certificate for `localhost` for each environment.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The PEM files of a certificate, under `target/tmp`.
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// The certificate authority that clients must trust.
    pub(crate) authority: PathBuf,
}

impl Certificate {
    pub(crate) fn generate() -> Self {
        Self::try_generate().unwrap_or_else(|error| panic!("a certificate for tests: {error}"))
    }

    fn try_generate() -> Result<Self, Box<dyn std::error::Error>> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::new())?;
        // The authority needs a different name: clients reject a certificate that names itself as
        // issuer.
        params.distinguished_name.push(DnType::CommonName, "keen-edge test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        // The two names of Segment are for the unchanged snippet.
        let names = ["localhost", "127.0.0.1", "cdn.segment.com", "api.segment.io"];
        let names = names.map(str::to_owned).to_vec();
        let chain = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        let dir = harness::root().join("target/tmp");
        std::fs::create_dir_all(&dir)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
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
