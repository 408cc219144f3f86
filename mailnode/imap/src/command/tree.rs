//! The hierarchy of folders as LIST sees it: folders, and levels that exist only because there are folders below them.

use std::collections::BTreeMap;

use crate::backend::Folder;

pub(crate) struct Tree(BTreeMap<String, Option<Folder>>);

impl Tree {
    pub fn new(folders: Vec<Folder>) -> Tree {
        let mut tree = BTreeMap::new();
        for folder in folders {
            for (end, _) in folder.name.match_indices('/') {
                if let Some(level) = folder.name.get(..end) {
                    tree.entry(level.to_owned()).or_insert(None);
                }
            }
            tree.insert(folder.name.clone(), Some(folder));
        }
        Tree(tree)
    }

    /// All names, in order; the inbox first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&Folder>)> {
        let all = || self.0.iter().map(|(name, folder)| (name.as_str(), folder.as_ref()));
        all().filter(|(name, _)| *name == "INBOX").chain(all().filter(|(name, _)| *name != "INBOX"))
    }

    /// The folders below `name`, at any depth.
    pub fn below(&self, name: &str) -> impl Iterator<Item = &Folder> {
        let prefix = format!("{name}/");
        let names = self.0.range(prefix.clone()..);
        names.take_while(move |(name, _)| name.starts_with(&prefix)).filter_map(|(_, folder)| folder.as_ref())
    }

    pub fn has_children(&self, name: &str) -> bool {
        self.below(name).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_between_folders_are_part_of_the_tree() {
        let folder = |name: &str| Folder {
            id: 1,
            name: name.into(),
            subscribed: false,
            special_use: None,
            uid_validity: 1,
        };
        let tree = Tree::new(vec![folder("a/b/c"), folder("INBOX"), folder("a-x"), folder("A")]);
        let names: Vec<(&str, bool)> = tree.iter().map(|(name, folder)| (name, folder.is_some())).collect();
        assert_eq!(
            names,
            [("INBOX", true), ("A", true), ("a", false), ("a-x", true), ("a/b", false), ("a/b/c", true)]
        );
        assert!(tree.has_children("a") && tree.has_children("a/b"));
        assert!(!tree.has_children("a-x") && !tree.has_children("A") && !tree.has_children("a/b/c"));
    }
}
