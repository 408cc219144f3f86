//! TLS, prefixes, schema versions.

mod support;

use bytes::Bytes;
use directory::{DatabaseError, Key, Kind, Read, Records};
use directory_tikv::{Tikv, TikvConfig, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::server::Server;
use support::{new_key, token};
use tikv_client::TransactionClient;

fn value(text: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

/// An authority with one certificate for 127.0.0.1: files `ca`, `cert`, `key`.
fn certificates(directory: &Path) -> [PathBuf; 3] {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &authority).unwrap();
    let file = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    [file("ca", authority.pem()), file("cert", certificate.pem()), file("key", key.serialize_pem())]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn mutual_tls_works_and_neither_plaintext_nor_strangers_get_in() {
    let (ours, strangers) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = certificates(ours.path()).map(|path| (path.clone(), std::fs::read(path).unwrap()));
    let kept = tempfile::tempdir().unwrap();
    let [ca, cert, key] = ours.map(|(path, bytes)| {
        let path = kept.path().join(path.file_name().unwrap());
        std::fs::write(&path, bytes).unwrap();
        path
    });
    let argument = |path: &PathBuf| path.display().to_string();
    let arguments = ["-ca", &argument(&ca), "-cert", &argument(&cert), "-key", &argument(&key)];
    let server = Server::start_with(arguments.map(str::to_owned).to_vec());
    let with = |tls: Option<Tls>| {
        Tikv::new(TikvConfig { tls, timeout: Duration::from_secs(4), ..server.config() }).unwrap()
    };
    let tls = |[ca, cert, key]: [PathBuf; 3]| Tls::from_parts(Some(ca), Some(cert), Some(key)).unwrap();
    let good = with(tls([ca.clone(), cert, key]));
    let record = new_key();
    assert_eq!(good.compare_and_set(&record, 0, token(), value("x")).await, Ok(1));
    let [_, cert, key] = certificates(strangers.path());
    for refused in [with(None), with(tls([ca, cert, key]))] {
        let read = refused.read(&record, false).await;
        assert!(matches!(read, Err(DatabaseError::Unavailable(_))), "{read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn two_clusters_in_one_tikv_do_not_see_each_other() {
    let server = Server::start();
    let with = |prefix: &str| Tikv::new(TikvConfig { key_prefix: prefix.into(), ..server.config() }).unwrap();
    let (one, other) = (with("one"), with("one/d"));
    let key = Key::domain("example.org");
    one.compare_and_set(&key, 0, token(), value("one")).await.unwrap();
    assert_eq!(other.read(&key, false).await, Ok(Read::default()));
    assert_eq!(other.list(Kind::Domain, None, 10).await, Ok(Vec::new()));
    other.compare_and_set(&key, 0, token(), value("other")).await.unwrap();
    assert_eq!(one.read(&key, false).await.unwrap().value, value("one"));
    assert_eq!(one.list(Kind::Domain, None, 10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn the_schema_version_is_written_once_and_a_newer_one_is_refused() {
    let server = Server::start();
    let key = new_key();
    server.client().compare_and_set(&key, 0, token(), value("x")).await.unwrap();
    let client = TransactionClient::new(vec![server.pd.clone()]).await.unwrap();
    let mut transaction = client.begin_optimistic().await.unwrap();
    assert_eq!(transaction.get("prickle/\0v".to_owned()).await.unwrap(), Some(b"1".to_vec()));
    transaction.put("prickle/\0v".to_owned(), "2").await.unwrap();
    transaction.commit().await.unwrap();
    match server.client().read(&key, false).await {
        Err(DatabaseError::Unavailable(why)) => assert!(why.contains("schema 2"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn a_value_that_is_too_long_and_a_foreign_record_are_told_plainly() {
    let server = Server::start();
    let tikv = server.client();
    let key = new_key();
    let long = Some(Bytes::from(vec![0; 256 * 1024 + 1]));
    match tikv.compare_and_set(&key, 0, token(), long).await {
        Err(DatabaseError::Unavailable(why)) => assert!(why.contains("262144 bytes"), "{why}"),
        other => panic!("{other:?}"),
    }
    let client = TransactionClient::new(vec![server.pd.clone()]).await.unwrap();
    let mut transaction = client.begin_optimistic().await.unwrap();
    let name = [b"prickle/\0p", key.id()].concat();
    transaction.put(name, "not a record").await.unwrap();
    transaction.commit().await.unwrap();
    let damaged = tikv.read(&key, false).await;
    assert!(matches!(&damaged, Err(DatabaseError::Unavailable(_))), "{damaged:?}");
    assert!(tikv.status().reachable, "that is no reason to call the database away");
}
