"""Accounts that the cluster's CA has to vouch for (docs/operator.md, "Signed accounts"): signed from outside, with the CA's key out of its Secret."""

import base64
import json

import clients
from ledger import make
from mail import POD_PORTS
from namespaces import run
from wait import eventually


def authority(mail, directory):
    """What `mailnode user sign` wants, as docs/operator.md makes it."""
    data = mail.get("secret", "mail-ca-key")["data"]
    current = json.loads(base64.b64decode(data["authorities.json"]))["current"]
    directory.mkdir(mode=0o700)
    (directory / "ca.pem").write_text(current["certificatePem"])
    (directory / "ca.key").write_text(current["keyPem"])
    (directory / "token").write_text(mail.token)
    return directory


def sign_all(kubernetes, mail, pki):
    """The addresses that were signed."""
    server = f"http://{mail.address_of('mail-0')}:{POD_PORTS['http']}"
    lines = run(kubernetes.mailnode, "--server", server, "--token-file", pki / "token", "user", "sign", "--all", "--ca", pki).splitlines()
    return {line.split()[0] for line in lines}


def answer(mail, user, identity):
    """The code of the first answer that is not a yes to the recipient, or of that to the message."""
    with mail.smtp() as smtp:
        smtp.ehlo()
        smtp.mail("friend@example.net")
        code, _ = smtp.rcpt(user.address)
        return code if code != 250 else smtp.data(make(identity))[0]


def test_accounts_that_are_not_signed_get_no_mail(kubernetes, loaded, report, tmp_path):
    mail, traffic = loaded(nodes=3)
    pki = authority(mail, tmp_path / "pki")
    assert sign_all(kubernetes, mail, pki) == {user.address for user in traffic.users}
    with traffic.running():
        mail.patch(encryption={"requireSignedAccounts": True})
        mail.wait_settled(300, nodes=3)
        # Who is signed has noticed nothing; who came later waits.
        traffic.flows()
        late = mail.add_user()
        assert answer(mail, late, "s9000001") == 451
        assert sign_all(kubernetes, mail, pki) == {late.address}
        eventually("mail for it is taken", lambda: answer(mail, late, "s9000002") == 250, 30, every=0.5)
    with_mail = mail.imap(late)
    assert clients.ok(with_mail.select("INBOX", readonly=True)) == [b"1"]
    with_mail.logout()
    report(f"signed from outside with the CA's key; {traffic.check()}")
