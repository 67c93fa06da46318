//! TLS: what is accepted, and what is said of what is not.

use crate::support::{PATIENCE, config_secure, connected, deps, own, secure, soon, tls};
use local_stack::{Certificate, RedisOptions, TlsOptions, wait_for};
use redis_link::{CertificateProblem, Config, Error, TlsConfig, Verify};
use std::time::{Duration, SystemTime};

#[tokio::test]
async fn each_thing_that_is_wrong_with_a_certificate_has_its_own_word() {
    let stack = own(secure()).await;
    let master = stack.redis().master();
    for (certificate, expected) in [
        (Certificate::Expired, CertificateProblem::Expired),
        (Certificate::NotYetValid, CertificateProblem::NotYetValid),
        (Certificate::WrongHost, CertificateProblem::WrongHost),
        (Certificate::Stranger, CertificateProblem::UnknownAuthority),
    ] {
        master.use_certificate(certificate).await.expect("changed");
        let error = config_secure(&stack).connect(deps()).await.expect_err("refused");
        assert!(!error.is_retryable() && error.to_string().contains(&master.port().to_string()), "{error}");
        let Error::Certificate { problem, .. } = &error else { panic!("{certificate:?}: {error:?}") };
        assert_eq!(*problem, expected);
        let verify = |verify| TlsConfig { verify, ..tls(&stack) };
        let with = |verify_as| Config { tls: Some(verify(verify_as)), ..config_secure(&stack) };
        connected(with(Verify::None)).await;
        let of_ca = with(Verify::Ca).connect(deps()).await;
        assert_eq!(of_ca.is_ok(), certificate == Certificate::WrongHost, "only the host is not looked at");
    }
}

#[tokio::test]
async fn a_server_that_wants_to_see_a_certificate_is_told_so_and_ours_has_to_be_good() {
    let stack = own(secure()).await;
    let none = TlsConfig { cert_file: None, key_file: None, ..tls(&stack) };
    let stranger = stack.authority().issue(Certificate::Stranger).expect("made");
    let bad =
        TlsConfig { cert_file: Some(stranger.cert_file), key_file: Some(stranger.key_file), ..tls(&stack) };
    for (wrong, word) in [(none, "CertificateRequired"), (bad, "UnknownCA")] {
        let settings = Config { tls: Some(wrong), ..config_secure(&stack) };
        // The server says so after the handshake, which a client of TLS 1.3 takes for done by then.
        let said = match settings.connect(deps()).await {
            Err(error) => error.to_string(),
            Ok(link) => link.status().last_error.expect("not connected"),
        };
        assert!(said.contains(word) || said.contains("hung up") || said.contains("closed"), "{said}");
    }
    let missing = TlsConfig { ca_file: Some("/nonexistent/ca.pem".into()), ..tls(&stack) };
    let mixed = TlsConfig { cert_file: tls(&stack).key_file, ..tls(&stack) };
    for (wrong, word) in [(missing, "/nonexistent/ca.pem"), (mixed, "key.pem")] {
        let settings = Config { tls: Some(wrong), ..config_secure(&stack) };
        let error = settings.connect(deps()).await.expect_err("refused");
        assert!(matches!(&error, Error::Tls { message, .. } if message.contains(word)), "{error:?}");
    }
}

#[tokio::test]
async fn who_speaks_plainly_to_a_server_with_tls_is_told_so() {
    let stack = own(secure()).await;
    let plain = Config { tls: None, ..config_secure(&stack) };
    let said = match plain.connect(deps()).await {
        Err(error) => {
            assert!(matches!(&error, Error::Tls { .. }), "{error:?}");
            error.to_string()
        }
        Ok(link) => link.status().last_error.expect("not connected"),
    };
    assert!(said.contains("TLS"), "{said}");
}

#[tokio::test]
async fn the_status_says_when_certificates_end() {
    let stack = own(secure()).await;
    let hour = Duration::from_secs(3600);
    stack.redis().master().use_certificate(Certificate::ValidFor(hour)).await.expect("changed");
    let link = connected(config_secure(&stack)).await;
    let status = link.status();
    let ends = status.masters[0].certificate_expires.expect("it has one");
    let left = ends.duration_since(SystemTime::now()).expect("it is good");
    assert!(left <= hour && left > hour / 2, "{left:?}");
    let ours = status.client_certificate_expires.expect("we have one");
    assert!(ours > SystemTime::now() + 24 * hour);
    assert_eq!((status.protocol, status.topology), (3, "standalone"));
}

#[tokio::test]
async fn sentinels_and_clusters_speak_tls_as_well() {
    let mutual = || Some(TlsOptions::mutual());
    let sentinels = own(RedisOptions { tls: mutual(), ..RedisOptions::with_sentinels(1) }).await;
    let settings = Config { tls: Some(tls(&sentinels)), ..crate::support::config_sentinel(&sentinels) };
    let link = connected(settings).await;
    link.health_check(soon()).await.expect("it answers");
    let next = sentinels.redis().failover().await.expect("failed over");
    wait_for("the other master", PATIENCE, async || {
        link.status().master == next.target() && link.generation().is_some()
    })
    .await;
    let cluster = own(RedisOptions { tls: mutual(), ..RedisOptions::cluster() }).await;
    let settings = Config { tls: Some(tls(&cluster)), ..crate::support::config_cluster(&cluster) };
    let link = connected(settings).await;
    link.health_check(soon()).await.expect("they answer");
    assert_eq!(link.status().masters.len(), 3);
    assert!(link.status().masters.iter().all(|master| master.certificate_expires.is_some()));
}
