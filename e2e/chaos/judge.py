"""Reads everything through a node and compares it with what was promised."""

import clients
from chaos.promises import FLAGS, FOLDERS, role_in
from ledger import Ledger
from wait import eventually

_PATIENCE = 60


def look(node, users):
    """{(address, folder): (UIDVALIDITY, HIGHESTMODSEQ, {UID: (id or None, flags)})}, bodies compared; None is a damaged one."""
    seen = {}
    for user in users:
        imap = clients.imap(node, user, timeout=_PATIENCE)
        for folder in FOLDERS:
            # On a busy computer a node may not answer for a moment: NO [UNAVAILABLE] says to try again (RFC 5530 3).
            eventually(f"{node} opens {folder} of {user.address}", lambda: clients.ok(imap.select(folder, readonly=True)), _PATIENCE, every=0.5)
            modseq = imap.response("HIGHESTMODSEQ")[1][-1]
            validity = clients.uid_validity(imap)
            messages = {}
            for uid, (flags, body) in clients.fetch(imap).items():
                messages[uid] = (Ledger._identify(body), frozenset(flags & set(FLAGS)))
            seen[user.address, folder] = (validity, int(modseq or 0), messages)
        imap.logout()
    return seen


def judge(promises, seen, where):
    """Notes each broken promise in `promises.violations`."""
    found = {}
    for (address, folder), (validity, modseq, messages) in seen.items():
        known = promises.folder(address, folder)
        if modseq < known.modseq:
            promises.violation("modseq", f"HIGHESTMODSEQ of {folder} of {address} is {modseq} {where}, was {known.modseq}")
        promises.selected(address, folder, validity, modseq, where)
        for uid, (identity, flags) in messages.items():
            if identity is None:
                promises.violation("damaged", f"UID {uid} in {folder} of {address} {where}", (address, known.uids.get(uid), role_in(folder)))
                continue
            key = (address, identity, role_in(folder))
            found.setdefault(key, []).append((folder, uid, flags))
            if uid < known.highest and uid not in known.uids:
                promises.violation("below", f"UID {uid} appears in {folder} of {address} {where}, below {known.highest}", key)
        _compare_uids(promises, address, folder, known, messages, where)
        for uid, (identity, _) in messages.items():
            if identity is not None:
                promises.shown(address, folder, uid, identity, where)
        promises.listed(address, folder, messages)
    for key, mail in list(promises.mails.items()):
        _judge_mail(promises, key, mail, found.get(key, []), where)
    for key, places in found.items():
        if key not in promises.mails:
            promises.violation("stranger", f"{key} was never sent and is at {places} {where}")


def _compare_uids(promises, address, folder, known, messages, where):
    """A message that stays in its folder keeps its UID; at worst it is announced again under a higher one."""
    now = {identity: uid for uid, (identity, _) in messages.items()}
    before = {}
    for uid, identity in known.uids.items():
        before[identity] = max(uid, before.get(identity, 0))
    for identity, uid in now.items():
        last = before.get(identity)
        key = (address, identity, role_in(folder))
        if last is None or last == uid:
            continue
        if uid < last:
            promises.violation("lower UID", f"{identity} in {folder} of {address} was UID {last} and is {uid} {where}", key)
        else:
            promises.renumbered += 1


def _judge_mail(promises, key, mail, places, where):
    address, identity, role = key
    text = f"{role} {identity} of {address} {where}"
    if mail.removed == "yes":
        if places:
            kind = "kept after QUIT" if mail.removed_by == "QUIT" else "resurrected"
            promises.violation(kind, f"{text} was expunged by {mail.removed_by} and is at {places}", key)
        return
    if len(places) > 1:
        promises.violation("duplicated", f"{text} is at {places}", key)
    if not places:
        if mail.acknowledged and mail.removed == "no":
            promises.violation("lost", f"{text} is nowhere", key)
        return
    folder, _, flags = places[0]
    if folder not in mail.folders:
        promises.violation("folder", f"{text} is in {folder}, not in {sorted(mail.folders)}", key)
    for flag, value in mail.flags.items():
        if value is not None and value != (flag in flags):
            kind = "flag" if role == "original" else "flag of copy"
            promises.violation(kind, f"{text} {'lacks' if value else 'has'} {flag}: {places}", key)


def differences(one, other):
    """Folders of which two nodes show different things, in words."""
    for place in sorted(one.keys() | other.keys()):
        (validity, _, mine), (theirs_validity, _, theirs) = one[place], other[place]
        if validity != theirs_validity:
            yield f"{place}: UIDVALIDITY {validity} and {theirs_validity}"
        different = [uid for uid in sorted(mine.keys() | theirs.keys()) if mine.get(uid) != theirs.get(uid)]
        if different:
            shown = ", ".join(f"{uid}: {mine.get(uid)} and {theirs.get(uid)}" for uid in different[:5])
            yield f"{place}: {len(different)} UIDs differ: {shown}"

