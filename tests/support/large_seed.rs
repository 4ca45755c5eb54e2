//! The seed of the measurements, 100 tables and 47 MB, and the settings of the MariaDB that has it.

use std::fmt::Write as _;

/// Tables of the seed.
pub(crate) const TABLES: usize = 100;
/// Rows of a table, of about 500 bytes each.
const ROWS: usize = 1_000;

/// The sizes that MariaDB has by default: those of the other tests are smaller.
pub(crate) const DEFAULTS: [&str; 2] = ["--innodb-log-file-size=96M", "--innodb-buffer-pool-size=128M"];
/// What docs/databases.md recommends for a MariaDB that has only the databases of instances.
pub(crate) const RECOMMENDED: [&str; 4] = [
    "--innodb-log-file-size=1G",
    "--innodb-buffer-pool-size=1G",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-file-per-table=OFF",
];

/// Returns what `mariadb-dump` writes for such a database: keys, and one insertion with all rows for each table.
pub(crate) fn dump() -> String {
    let mut dump = "SET NAMES utf8mb4;\nSET FOREIGN_KEY_CHECKS=0, UNIQUE_CHECKS=0;\n".to_owned();
    for table in 0..TABLES {
        let columns = "id BIGINT NOT NULL AUTO_INCREMENT, author BIGINT NOT NULL, title VARCHAR(100) NOT NULL, \
                       body TEXT, PRIMARY KEY (id), KEY author (author), KEY title (title)";
        write!(dump, "CREATE TABLE t{table} ({columns}) ENGINE=InnoDB;\nINSERT INTO t{table} VALUES ")
            .unwrap();
        for row in 0..ROWS {
            let (title, end) = (row * 7919 % 10_007, if row + 1 == ROWS { ";\n" } else { "," });
            write!(
                dump,
                "({},{},'title {title} of {table}','{}'){end}",
                row + 1,
                row % 17,
                "lorem ip".repeat(55)
            )
            .unwrap();
        }
    }
    dump
}
