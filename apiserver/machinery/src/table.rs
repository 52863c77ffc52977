//! The columns of a `meta.k8s.io/v1` Table. Which columns a type has is the catalog's.

use serde::{Deserialize, Serialize};

/// `metav1.TableColumnDefinition`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDefinition {
    pub name: String,
    /// An OpenAPI type: string, integer, number, boolean, date.
    #[serde(rename = "type")]
    pub column_type: String,
    /// `name` for the column that identifies the row, else mostly empty.
    pub format: String,
    pub description: String,
    /// 0 is always shown, above it only in wide views.
    pub priority: i32,
}
