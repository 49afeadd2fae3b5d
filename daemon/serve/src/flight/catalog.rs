//! Answers to drivers about the service itself: its tables, types and abilities.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables, Nullable,
    Searchable, SqlInfo, SqlSupportedCaseSensitivity, SqlSupportedTransaction, XdbcDataType,
};
use datafusion::logical_expr::TableType;
use datafusion::prelude::SessionContext;
use tonic::Status;

use super::refusal::internal;
use super::types::plain;

pub(super) fn catalogs(
    context: &SessionContext,
    query: CommandGetCatalogs,
) -> Result<RecordBatch, FlightError> {
    let mut builder = query.into_builder();
    for catalog in context.catalog_names() {
        builder.append(catalog);
    }
    builder.build()
}

pub(super) fn schemas(
    context: &SessionContext,
    query: CommandGetDbSchemas,
) -> Result<RecordBatch, FlightError> {
    let mut builder = query.into_builder();
    for name in context.catalog_names() {
        for schema in
            context.catalog(&name).map(|catalog| catalog.schema_names()).unwrap_or_default()
        {
            builder.append(&name, schema);
        }
    }
    builder.build()
}

pub(super) async fn tables(
    context: &SessionContext,
    query: CommandGetTables,
) -> Result<RecordBatch, Status> {
    let mut builder = query.into_builder();
    for catalog_name in context.catalog_names() {
        let Some(catalog) = context.catalog(&catalog_name) else { continue };
        for schema_name in catalog.schema_names() {
            let Some(schema) = catalog.schema(&schema_name) else { continue };
            for name in schema.table_names() {
                let Some(table) = schema.table(&name).await.map_err(internal)? else { continue };
                let kind = kind(table.table_type());
                builder
                    .append(&catalog_name, &schema_name, &name, kind, &plain(&table.schema()))
                    .map_err(internal)?;
            }
        }
    }
    builder.build().map_err(internal)
}

pub(super) fn table_types(query: CommandGetTableTypes) -> Result<RecordBatch, FlightError> {
    let mut builder = query.into_builder();
    for table_type in [TableType::Base, TableType::View, TableType::Temporary] {
        builder.append(kind(table_type));
    }
    builder.build()
}

/// Returns the name that JDBC gives a kind of table, which tools look for.
fn kind(table_type: TableType) -> &'static str {
    match table_type {
        TableType::Base => "TABLE",
        TableType::View => "VIEW",
        TableType::Temporary => "LOCAL TEMPORARY",
    }
}

/// Returns the columns of the answer about primary keys. None are declared, so the answer is empty.
pub(super) fn primary_keys() -> Schema {
    Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ])
}

/// Returns the columns of the answers about foreign keys.
pub(super) fn foreign_keys() -> Schema {
    Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ])
}

pub(super) fn sql_info(version: &str) -> Result<SqlInfoData, FlightError> {
    let mut builder = SqlInfoDataBuilder::new();
    builder.append(SqlInfo::FlightSqlServerName, "Diptych");
    builder.append(SqlInfo::FlightSqlServerVersion, version);
    // The version of the columnar format.
    builder.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    builder.append(SqlInfo::FlightSqlServerReadOnly, true);
    builder.append(SqlInfo::FlightSqlServerSql, true);
    builder.append(SqlInfo::FlightSqlServerSubstrait, false);
    builder.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    builder.append(SqlInfo::FlightSqlServerCancel, true);
    builder.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    builder.append(SqlInfo::SqlDdlCatalog, false);
    builder.append(SqlInfo::SqlDdlSchema, false);
    builder.append(SqlInfo::SqlDdlTable, false);
    builder.append(
        SqlInfo::SqlIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32,
    );
    builder.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    builder.append(
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32,
    );
    builder.append(SqlInfo::SqlAllTablesAreSelectable, true);
    builder.append(SqlInfo::SqlSearchStringEscape, "\\");
    builder.append(SqlInfo::SqlSupportsColumnAliasing, true);
    builder.append(SqlInfo::SqlNullPlusNullIsNull, true);
    builder.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    builder.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    builder.append(SqlInfo::SqlSchemaTerm, "schema");
    builder.append(SqlInfo::SqlCatalogTerm, "catalog");
    builder.append(SqlInfo::SqlCatalogAtStart, true);
    builder.append(SqlInfo::SqlSelectForUpdateSupported, false);
    builder.append(SqlInfo::SqlStoredProceduresSupported, false);
    builder.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    builder.build()
}

/// Returns the types that SQL can write, with ODBC's numbers.
pub(super) fn xdbc_types() -> Result<XdbcTypeInfoData, FlightError> {
    let number = |name: &str, data_type, digits, unsigned| XdbcTypeInfo {
        column_size: Some(digits),
        unsigned_attribute: Some(unsigned),
        num_prec_radix: Some(10),
        ..xdbc_type(name, data_type)
    };
    let quoted = |name: &str, data_type, prefix: &str| XdbcTypeInfo {
        literal_prefix: Some(prefix.into()),
        literal_suffix: Some("'".into()),
        ..xdbc_type(name, data_type)
    };
    let text = XdbcTypeInfo {
        case_sensitive: true,
        searchable: Searchable::Full,
        ..quoted("VARCHAR", XdbcDataType::XdbcVarchar, "'")
    };
    let types = [
        xdbc_type("BOOLEAN", XdbcDataType::XdbcBit),
        number("TINYINT", XdbcDataType::XdbcTinyint, 3, false),
        number("SMALLINT", XdbcDataType::XdbcSmallint, 5, false),
        number("INTEGER", XdbcDataType::XdbcInteger, 10, false),
        number("BIGINT", XdbcDataType::XdbcBigint, 19, false),
        number("TINYINT UNSIGNED", XdbcDataType::XdbcTinyint, 3, true),
        number("SMALLINT UNSIGNED", XdbcDataType::XdbcSmallint, 5, true),
        number("INTEGER UNSIGNED", XdbcDataType::XdbcInteger, 10, true),
        number("BIGINT UNSIGNED", XdbcDataType::XdbcBigint, 20, true),
        number("REAL", XdbcDataType::XdbcReal, 7, false),
        number("DOUBLE", XdbcDataType::XdbcDouble, 15, false),
        number("DECIMAL", XdbcDataType::XdbcDecimal, 38, false),
        text,
        quoted("BYTEA", XdbcDataType::XdbcVarbinary, "X'"),
        quoted("DATE", XdbcDataType::XdbcDate, "DATE '"),
        quoted("TIME", XdbcDataType::XdbcTime, "TIME '"),
        quoted("TIMESTAMP", XdbcDataType::XdbcTimestamp, "TIMESTAMP '"),
        quoted("INTERVAL", XdbcDataType::XdbcInterval, "INTERVAL '"),
    ];
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for one in types {
        builder.append(one);
    }
    builder.build()
}

fn xdbc_type(name: &str, data_type: XdbcDataType) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.into(),
        data_type,
        column_size: None,
        literal_prefix: None,
        literal_suffix: None,
        create_params: None,
        nullable: Nullable::NullabilityNullable,
        case_sensitive: false,
        searchable: Searchable::Basic,
        unsigned_attribute: None,
        fixed_prec_scale: false,
        auto_increment: Some(false),
        local_type_name: Some(name.into()),
        minimum_scale: None,
        maximum_scale: None,
        sql_data_type: data_type,
        datetime_subcode: None,
        num_prec_radix: None,
        interval_precision: None,
    }
}
