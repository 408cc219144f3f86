//! A figure's numbers, written as CSV. Fields are numbers and plain words, so nothing is quoted.

use std::fmt::Write;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    text: String,
}

impl Table {
    pub fn new(columns: &[&str]) -> Self {
        Self { text: format!("{}\n", columns.join(",")) }
    }

    pub fn row(&mut self, fields: &[&dyn std::fmt::Display]) {
        for (at, field) in fields.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // Writing into a String does not fail.
            let _ = write!(self.text, "{comma}{field}");
        }
        self.text.push('\n');
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

/// With so many digits behind the point.
pub fn fixed(value: f64, digits: usize) -> String {
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_its_columns_and_rows() {
        let mut table = Table::new(&["nodes", "rate"]);
        table.row(&[&3, &fixed(1.5, 2)]);
        assert_eq!(table.text(), "nodes,rate\n3,1.50\n");
    }
}
