//! Certificates: wrong ones told apart, renewed ones taken up, and how long each still lasts.

use crate::support::*;
use local_stack::{Certificate, ClientCertificates, Database, PostgresOptions, Stack, TlsOptions};
use postgres_pool_manager::{
    CertificateOwner, CertificateStatus, ConnectFailure, Error, PostgresPoolManager, sqlx,
};
use resilience::Deadline;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn stack(client_certificates: ClientCertificates) -> (Stack, Database) {
    let tls = Some(TlsOptions { client_certificates });
    let stack =
        Stack::builder().postgres(PostgresOptions { tls, ..PostgresOptions::default() }).start().await;
    let stack = stack.unwrap();
    let db = stack.database().await.unwrap();
    (stack, db)
}

async fn failure(url: String) -> (ConnectFailure, String) {
    match config(url, 1).connect().await {
        Ok(_) => panic!("it connects"),
        Err(Error::Connect { failure, host, source }) => {
            (failure, Error::Connect { failure, host, source }.to_string())
        }
        Err(other) => panic!("{other}"),
    }
}

/// A session on a connection of its own.
async fn fresh(pool: &PostgresPoolManager, db: &Database) -> Result<bool, Error> {
    for pid in
        db.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'database-services'").await.unwrap()
    {
        let pid = pid[0].clone().unwrap();
        db.sql(&format!("SELECT pg_terminate_backend({pid}, 10000)")).await.unwrap();
    }
    let deadline = Deadline::after(Duration::from_secs(3));
    let mut last = None;
    while !deadline.is_expired() {
        match pool.write().deadline(deadline).await {
            Ok(mut session) => {
                let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                match sqlx::query_scalar(sql).fetch_one(&mut session).await {
                    Ok(encrypted) => return Ok(encrypted),
                    Err(e) => last = Some(Error::from(e)),
                }
            }
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap())
}

#[tokio::test]
async fn what_is_wrong_with_a_servers_certificate_is_said() {
    let (_stack, db) = stack(ClientCertificates::NotAsked).await;
    config(db.url(), 1).connect().await.unwrap();
    for (certificate, expected, words) in [
        (Certificate::Expired, ConnectFailure::ServerCertificateExpired, "has expired"),
        (Certificate::NotYetValid, ConnectFailure::ServerCertificateNotYetValid, "not valid yet"),
        (Certificate::WrongHost, ConnectFailure::ServerCertificateHost, "for another host"),
        (Certificate::Stranger, ConnectFailure::ServerCertificateAuthority, "no trusted authority"),
    ] {
        db.primary().use_certificate(certificate).await.unwrap();
        let (kind, text) = failure(db.url()).await;
        assert_eq!(kind, expected, "{text}");
        assert!(text.contains(words), "{text}");
    }
    let missing = db.url().replace("ca.pem", "nowhere.pem");
    let (kind, text) = failure(missing).await;
    assert_eq!(kind, ConnectFailure::CertificateFiles, "{text}");
}

#[tokio::test]
async fn what_is_wrong_with_our_certificate_is_said_and_a_renewed_one_is_taken_up() {
    let (stack, db) = stack(ClientCertificates::Required).await;
    let pool = config(db.url(), 1).connect().await.unwrap();
    assert!(fresh(&pool, &db).await.unwrap());
    for (certificate, expected) in [
        (Certificate::Expired, ConnectFailure::ClientCertificateExpired),
        (Certificate::Stranger, ConnectFailure::ClientCertificateRefused),
    ] {
        // The files are replaced under the running pool.
        stack.authority().renew_client(certificate).unwrap();
        let (kind, text) = failure(db.url()).await;
        assert_eq!(kind, expected, "{text}");
        let error = fresh(&pool, &db).await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
        stack.authority().renew_client(Certificate::Valid).unwrap();
        assert!(fresh(&pool, &db).await.unwrap(), "no restart is needed");
    }
    let nothing = db.url().split("&sslcert").next().unwrap().to_owned();
    let (kind, text) = failure(nothing).await;
    assert_eq!(kind, ConnectFailure::ClientCertificateRefused, "{text}");
    let plain = db.url().split('?').next().unwrap().to_owned() + "?sslmode=disable";
    let (kind, _) = failure(plain).await;
    assert_eq!(kind, ConnectFailure::Credentials, "pg_hba.conf has no line for it");
}

#[tokio::test]
async fn every_certificate_says_how_long_it_lasts() {
    let (stack, db) = stack(ClientCertificates::Required).await;
    db.primary().use_certificate(Certificate::ValidFor(DAY * 10)).await.unwrap();
    stack.authority().renew_client(Certificate::ValidFor(DAY * 20)).unwrap();
    let pool = config(db.url(), 1).connect().await.unwrap();
    let of = |all: &[CertificateStatus], owner| all.iter().find(|c| c.owner == owner).cloned().unwrap();
    let all = pool.certificates(Deadline::after(SOON)).await;
    assert_eq!(all.len(), 3, "{all:#?}");
    let server = of(&all, CertificateOwner::Server);
    assert_eq!((server.host.as_str(), server.days_left(), server.error), ("primary", Some(9), None));
    assert!(server.subject.unwrap().contains("postgres"));
    let client = of(&all, CertificateOwner::Client);
    assert_eq!((client.days_left(), client.file.is_some()), (Some(19), true));
    assert!(of(&all, CertificateOwner::Authority).days_left().unwrap() > 100);
    // What nobody connects with any more is seen all the same.
    db.primary().use_certificate(Certificate::Expired).await.unwrap();
    stack.authority().renew_client(Certificate::Expired).unwrap();
    let all = pool.certificates(Deadline::after(SOON)).await;
    assert_eq!(of(&all, CertificateOwner::Server).days_left(), Some(-2));
    assert_eq!(of(&all, CertificateOwner::Client).days_left(), Some(-2));
    db.primary().kill().unwrap();
    let gone = of(&pool.certificates(Deadline::after(SOON)).await, CertificateOwner::Server);
    assert!(gone.error.is_some() && gone.days_left().is_none(), "{gone:?}");
    // Without TLS there is none.
    let (plain, _db) = crate::support::pool(1).await;
    assert_eq!(plain.certificates(Deadline::after(SOON)).await, []);
}
