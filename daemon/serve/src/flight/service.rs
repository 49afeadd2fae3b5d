//! The requests of drivers, and the parts of the service that answer them.

use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionCancelQueryRequest,
    ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, CommandGetCatalogs,
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandPreparedStatementUpdate,
    CommandStatementIngest, CommandStatementQuery, CommandStatementUpdate,
    DoPutPreparedStatementResult, ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus,
    FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, Ticket,
};
use bytes::Bytes;
use datafusion::prelude::SessionContext;
use futures::{StreamExt, stream};
use prost::Message;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::prepared::{PreparedStatements, Statement};
use super::refusal::{READ_ONLY, internal, of_failure, of_session};
use super::request::{Handle, dataset, decoded, handle_of, no_transaction, password};
use super::rows::{Sent, info, nothing, schema_bytes, send, send_one};
use super::running::{Queries, QueryRows};
use super::types::{plain, plain_batch, plain_rows};
use super::{FlightSpec, catalog, parameters};
use crate::query::{QueryStatement, StatementSchemas};

const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";
/// Statements that are planned at once only to describe them. That is short and needs no turn of
/// `sql.concurrent`.
const DESCRIBED_AT_ONCE: usize = 2;

#[derive(Clone)]
pub(super) struct Service {
    spec: Arc<FlightSpec>,
    queries: Arc<Queries>,
    prepared: Arc<PreparedStatements>,
    /// Places for statements that are being described: each takes a process.
    describing: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(spec: FlightSpec) -> Self {
        let queries = Queries::new(Arc::clone(&spec.slots), Arc::clone(&spec.longest));
        Self {
            spec: Arc::new(spec),
            queries: Arc::new(queries),
            prepared: Arc::default(),
            describing: Arc::new(Semaphore::new(DESCRIBED_AT_ONCE)),
        }
    }

    /// Runs work with a session. Opening the session reads files.
    async fn with_session<T, W>(
        &self,
        dataset: Option<String>,
        ask: impl FnOnce(SessionContext) -> W + Send + 'static,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let spec = Arc::clone(&self.spec);
        self.queries
            .think(async move {
                let opened = tokio::task::spawn_blocking(move || {
                    (spec.session)(dataset.as_deref()).map_err(|error| of_session(&error))
                });
                ask(opened.await.map_err(internal)??).await
            })
            .await
    }

    /// Returns the schemas of a statement's rows and parameters, with the values of its first run.
    async fn describe(&self, statement: Statement) -> Result<StatementSchemas, Status> {
        let question = self.question(statement)?;
        self.queries
            .think(async {
                let _turn = self.describing.acquire().await.map_err(internal)?;
                let described = self.spec.queries.describe(question).await;
                described.map_err(|failure| of_failure(&failure))
            })
            .await
    }

    /// Returns the schema of a statement's rows.
    async fn schema(&self, statement: Statement) -> Result<Schema, Status> {
        Ok(plain_rows(&self.describe(statement).await?.rows).as_ref().clone())
    }

    fn question(&self, statement: Statement) -> Result<QueryStatement, Status> {
        let Statement { dataset, sql, bound } = statement;
        let dataset =
            (self.spec.dataset)(dataset.as_deref()).map_err(|error| of_session(&error))?;
        QueryStatement::new(sql, dataset, bound).map_err(|failure| of_failure(&failure))
    }

    async fn run(&self, handle: Bytes, statement: Statement) -> Result<Sent, Status> {
        let (spec, question) = (Arc::clone(&self.spec), self.question(statement)?);
        let (schema, rows) =
            self.queries.run(handle, |found| answer(spec, question, found)).await?;
        Ok(send(schema, rows))
    }
}

/// Runs a query and passes its rows on.
async fn answer(
    spec: Arc<FlightSpec>,
    question: QueryStatement,
    mut found: QueryRows,
) -> Result<(), Status> {
    let mut answer = spec.queries.ask(question).await.map_err(|failure| of_failure(&failure))?;
    let schema = plain_rows(answer.schema());
    found.schema(Arc::clone(&schema));
    while let Some(batch) = answer.next().await.map_err(|failure| of_failure(&failure))? {
        found.rows(plain_batch(&batch, &schema).map_err(internal)?).await;
    }
    Ok(())
}

fn cancel(queries: &Queries, info: &FlightInfo) -> CancelStatus {
    let handles = info.endpoint.iter().filter_map(|endpoint| handle_of(endpoint.ticket.as_ref()?));
    if handles.filter(|handle| queries.cancel(handle)).count() > 0 {
        CancelStatus::Cancelled
    } else {
        CancelStatus::NotCancellable
    }
}

#[tonic::async_trait]
impl FlightSqlService for Service {
    type FlightService = Self;

    /// Returns a token for a password that is one. The user's name does not matter.
    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<<Self as FlightService>::HandshakeStream>, Status> {
        let Some(token) = password(request.metadata()) else {
            return Err(Status::unauthenticated(
                "user and password are missing: give any user, and a token of this service as the \
                 password",
            ));
        };
        if !(self.spec.check)(&token) {
            return Err(Status::unauthenticated(
                "the password is not a token of this service; `diptych token` makes one",
            ));
        }
        // If the service needs no tokens, any token will do, but a client expects one.
        let given = if token.is_empty() { "none" } else { &token };
        let header = format!("Bearer {given}").parse();
        let header = header.map_err(|_| {
            Status::unauthenticated(
                "the password cannot be a token: it has characters that a header cannot hold",
            )
        })?;
        let answered = HandshakeResponse {
            protocol_version: 0,
            payload: Bytes::copy_from_slice(given.as_bytes()),
        };
        let mut response = Response::new(stream::iter([Ok(answered)]).boxed());
        response.metadata_mut().insert("authorization", header);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        no_transaction(query.transaction_id.as_ref())?;
        let dataset = dataset(request.metadata())?;
        let statement =
            Statement { dataset: dataset.clone(), sql: query.query.clone(), bound: Vec::new() };
        let schema = self.schema(statement).await?;
        let handle = Handle { id: rand::random(), dataset, sql: query.query };
        let handle = Bytes::from(serde_json::to_vec(&handle).map_err(internal)?);
        info(
            request.into_inner(),
            &schema,
            TicketStatementQuery { statement_handle: handle }.as_any().encode_to_vec(),
        )
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        _: Request<Ticket>,
    ) -> Result<Sent, Status> {
        let handle = serde_json::from_slice(&ticket.statement_handle);
        let Handle { dataset, sql, .. } = handle
            .map_err(|_| Status::invalid_argument("this ticket was not issued by this service"))?;
        self.run(ticket.statement_handle, Statement { dataset, sql, bound: Vec::new() }).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        no_transaction(query.transaction_id.as_ref())?;
        let statement = Statement {
            dataset: dataset(request.metadata())?,
            sql: query.query,
            bound: Vec::new(),
        };
        let described = self.describe(statement.clone()).await?;
        let dataset_schema = schema_bytes(&plain_rows(&described.rows))?;
        let parameter_schema = schema_bytes(&plain(&described.parameters))?;
        let prepared_statement_handle = self.prepared.keep(statement);
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle,
            dataset_schema,
            parameter_schema,
        })
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let bound = parameters::read(request.into_inner()).await?;
        self.prepared.bind(&query.prepared_statement_handle, bound)?;
        Ok(DoPutPreparedStatementResult {
            prepared_statement_handle: Some(query.prepared_statement_handle),
        })
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = self.schema(self.prepared.get(&query.prepared_statement_handle)?).await?;
        info(request.into_inner(), &schema, query.as_any().encode_to_vec())
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        _: Request<Ticket>,
    ) -> Result<Sent, Status> {
        let statement = self.prepared.get(&query.prepared_statement_handle)?;
        self.run(query.prepared_statement_handle, statement).await
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        self.prepared.close(&query.prepared_statement_handle);
        Ok(())
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        _: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let info: FlightInfo = decoded(&query.info)?;
        // Both kinds of results have the same numbers.
        Ok(ActionCancelQueryResult { result: cancel(&self.queries, &info).into() })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let action = request.into_inner();
        if action.r#type != CANCEL_FLIGHT_INFO {
            return Err(Status::unimplemented(format!("unknown action {:?}", action.r#type)));
        }
        let asked: CancelFlightInfoRequest = decoded(&action.body)?;
        let status = asked
            .info
            .as_ref()
            .map_or(CancelStatus::NotCancellable, |info| cancel(&self.queries, info));
        let body = Bytes::from(CancelFlightInfoResult::new(status).encode_to_vec());
        Ok(Response::new(stream::iter([Ok(arrow_flight::Result { body })]).boxed()))
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        let description = "Ends a running query.\nRequest Message: CancelFlightInfoRequest\n\
             Response Message: CancelFlightInfoResult";
        Some(vec![Ok(ActionType {
            r#type: CANCEL_FLIGHT_INFO.into(),
            description: description.into(),
        })])
    }

    async fn do_action_begin_transaction(
        &self,
        _: ActionBeginTransactionRequest,
        _: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(Status::unimplemented(
            "transactions are not supported, because this service only reads",
        ))
    }

    async fn do_put_statement_update(
        &self,
        _: CommandStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(Status::unimplemented(READ_ONLY))
    }

    async fn do_put_statement_ingest(
        &self,
        _: CommandStatementIngest,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(Status::unimplemented(READ_ONLY))
    }

    async fn do_put_prepared_statement_update(
        &self,
        _: CommandPreparedStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(Status::unimplemented(READ_ONLY))
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(request.into_inner(), &query.into_builder().schema(), query.as_any().encode_to_vec())
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<Ticket>,
    ) -> Result<Sent, Status> {
        let dataset = dataset(request.metadata())?;
        send_one(
            self.with_session(dataset, async move |context| Ok(catalog::catalogs(&context, query)))
                .await?,
        )
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(
            request.into_inner(),
            &query.clone().into_builder().schema(),
            query.as_any().encode_to_vec(),
        )
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<Ticket>,
    ) -> Result<Sent, Status> {
        let dataset = dataset(request.metadata())?;
        send_one(
            self.with_session(dataset, async move |context| Ok(catalog::schemas(&context, query)))
                .await?,
        )
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(
            request.into_inner(),
            &query.clone().into_builder().schema(),
            query.as_any().encode_to_vec(),
        )
    }

    async fn do_get_tables(
        &self,
        query: CommandGetTables,
        request: Request<Ticket>,
    ) -> Result<Sent, Status> {
        let dataset = dataset(request.metadata())?;
        send_one(Ok(self
            .with_session(dataset, async move |context| catalog::tables(&context, query).await)
            .await?))
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(request.into_inner(), &query.into_builder().schema(), query.as_any().encode_to_vec())
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        _: Request<Ticket>,
    ) -> Result<Sent, Status> {
        send_one(catalog::table_types(query))
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let known = catalog::sql_info(self.spec.version).map_err(internal)?;
        info(request.into_inner(), &known.schema(), query.as_any().encode_to_vec())
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        _: Request<Ticket>,
    ) -> Result<Sent, Status> {
        let known = catalog::sql_info(self.spec.version).map_err(internal)?;
        send_one(query.into_builder(&known).build())
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let known = catalog::xdbc_types().map_err(internal)?;
        info(request.into_inner(), &known.schema(), query.as_any().encode_to_vec())
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        _: Request<Ticket>,
    ) -> Result<Sent, Status> {
        let known = catalog::xdbc_types().map_err(internal)?;
        send_one(query.into_builder(&known).build())
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(request.into_inner(), &catalog::primary_keys(), query.as_any().encode_to_vec())
    }

    async fn do_get_primary_keys(
        &self,
        _: CommandGetPrimaryKeys,
        _: Request<Ticket>,
    ) -> Result<Sent, Status> {
        send_one(Ok(nothing(catalog::primary_keys())))
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(request.into_inner(), &catalog::foreign_keys(), query.as_any().encode_to_vec())
    }

    async fn do_get_exported_keys(
        &self,
        _: CommandGetExportedKeys,
        _: Request<Ticket>,
    ) -> Result<Sent, Status> {
        send_one(Ok(nothing(catalog::foreign_keys())))
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(request.into_inner(), &catalog::foreign_keys(), query.as_any().encode_to_vec())
    }

    async fn do_get_imported_keys(
        &self,
        _: CommandGetImportedKeys,
        _: Request<Ticket>,
    ) -> Result<Sent, Status> {
        send_one(Ok(nothing(catalog::foreign_keys())))
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(request.into_inner(), &catalog::foreign_keys(), query.as_any().encode_to_vec())
    }

    async fn do_get_cross_reference(
        &self,
        _: CommandGetCrossReference,
        _: Request<Ticket>,
    ) -> Result<Sent, Status> {
        send_one(Ok(nothing(catalog::foreign_keys())))
    }

    /// Does nothing: the information about the service is fixed.
    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
