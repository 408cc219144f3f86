//! Verification of recipients (DESIGN 2, step 2).

use super::{Manager, mailbox};
use crate::node::Node;
use crate::wire::{Failure, RecipientState};
use cluster::{NodeId, UserId};
use futures_util::future::join_all;
use std::sync::Arc;

impl Manager {
    /// What a delivering node must know of each user.
    ///
    /// # Errors
    /// [`Failure::NotManager`], or [`Failure::Temporary`] if a profile can be had from nowhere.
    pub async fn recipients(
        &self,
        node: &Arc<Node>,
        from: NodeId,
        users: Vec<UserId>,
        acting: bool,
    ) -> Result<Vec<RecipientState>, Failure> {
        for &user in &users {
            self.check(node, from, user, acting)?;
        }
        let states = join_all(users.into_iter().map(|user| self.recipient(node, user))).await;
        states.into_iter().collect()
    }

    async fn recipient(&self, node: &Arc<Node>, user: UserId) -> Result<RecipientState, Failure> {
        let cell = self.cell(user);
        let profile = match cell.profile.current(node, user).await {
            Ok(profile) => profile,
            Err(Failure::NotFound) => {
                self.forget(user);
                return Ok(RecipientState::Unknown);
            }
            Err(failure) => return Err(failure),
        };
        if !profile.takes_mail() {
            return Ok(RecipientState::Disabled);
        }
        if profile.quota > 0 {
            let mut mailbox = cell.mailbox.lock().await;
            mailbox::refresh(node, &cell, &mut mailbox).await?;
            if mailbox.index.live_bytes() >= profile.quota {
                return Ok(RecipientState::OverQuota);
            }
        }
        let mail_map = self.knowledge.mail_map(node, user).await;
        let encryption = &profile.encryption;
        let seal_to = encryption.sealing_key();
        let signature = encryption.signature().map(<[u8]>::to_vec);
        Ok(RecipientState::Accepts { mail_map, seal_to, signature })
    }
}
