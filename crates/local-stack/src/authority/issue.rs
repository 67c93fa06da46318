//! What the authority signs. Without the feature `tls` it signs nothing, and says so.

use super::Certificate;
use crate::error::Error;

/// A certificate and its key.
pub(super) struct Pem {
    pub(super) certificate: String,
    pub(super) key: String,
}

#[cfg(feature = "tls")]
pub(super) use with_rcgen::Issuer;
#[cfg(not(feature = "tls"))]
pub(super) use without::Issuer;

#[cfg(feature = "tls")]
mod with_rcgen {
    use std::time::{Duration, SystemTime};

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        KeyUsagePurpose,
    };

    use super::{Certificate, Error, Pem};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// For clocks that differ a little, and for certificates that are looked at in the second they are made.
    const EARLIER: Duration = Duration::from_secs(60 * 60);

    /// The authority's key and certificate.
    pub(in super::super) struct Issuer {
        signer: CertifiedIssuer<'static, KeyPair>,
        pem: String,
    }

    impl Issuer {
        pub(in super::super) fn new() -> Result<Self, Error> {
            let signer = authority("local-stack").map_err(|error| failed(&error))?;
            Ok(Self { pem: signer.pem(), signer })
        }

        pub(in super::super) fn ca(&self) -> &str {
            &self.pem
        }

        pub(in super::super) fn issue(&self, certificate: Certificate) -> Result<Pem, Error> {
            signed(&self.signer, certificate).map_err(|error| failed(&error))
        }
    }

    fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate()?)
    }

    fn signed(
        signer: &CertifiedIssuer<'static, KeyPair>,
        certificate: Certificate,
    ) -> Result<Pem, rcgen::Error> {
        let names = match certificate {
            Certificate::WrongHost => vec!["elsewhere.invalid".to_owned()],
            _ => vec!["127.0.0.1".to_owned(), "::1".to_owned(), "localhost".to_owned()],
        };
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "postgres");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A Redis server is its master's client, and a cluster's node everybody's.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let now = rcgen::date_time_ymd(1970, 1, 1)
            + SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (params.not_before, params.not_after) = match certificate {
            Certificate::Expired => (now - DAY * 30, now - DAY),
            Certificate::NotYetValid => (now + DAY, now + DAY * 30),
            Certificate::ValidFor(time) => (now - EARLIER, now + time),
            Certificate::Valid | Certificate::WrongHost | Certificate::Stranger => {
                (now - EARLIER, now + DAY * 30)
            }
        };
        let key = KeyPair::generate()?;
        let signed = match certificate {
            Certificate::Stranger => params.signed_by(&key, &*authority("a stranger")?)?,
            _ => params.signed_by(&key, signer)?,
        };
        Ok(Pem { certificate: signed.pem(), key: key.serialize_pem() })
    }

    fn failed(error: &rcgen::Error) -> Error {
        Error::Certificate { reason: error.to_string() }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use std::convert::Infallible;

    use super::{Certificate, Error, Pem};

    /// There is none.
    pub(in super::super) struct Issuer(Infallible);

    impl Issuer {
        pub(in super::super) fn new() -> Result<Self, Error> {
            let reason = "this local-stack was built without its feature `tls`; build it with";
            Err(Error::Setting { name: "tls".into(), reason: reason.into() })
        }

        pub(in super::super) fn ca(&self) -> &str {
            match self.0 {}
        }

        pub(in super::super) fn issue(&self, _certificate: Certificate) -> Result<Pem, Error> {
            match self.0 {}
        }
    }
}
