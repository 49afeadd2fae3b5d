//! Checks whether an object store has credentials.
//!
//! A store without credentials asks the metadata service of its machine, at an address in the local
//! network. So anyone who can name a dataset could make a service send requests there. A laptop
//! would wait for an answer that never comes. Therefore this happens only if [`SWITCH`] allows it.

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Aws};
use object_store::azure::{AzureConfigKey as Azure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey as Google};

/// The environment variable that lets stores ask the machine's metadata service.
const SWITCH: &str = "DIPTYCH_INSTANCE_CREDENTIALS";

/// Refuses a store that would have to ask the metadata service, unless the environment allows it.
/// `wants` names the variables that would give it credentials.
fn check(has_own: bool, wants: &str) -> Result<(), String> {
    if has_own || std::env::var(SWITCH).is_ok_and(|value| is_true(&value)) {
        return Ok(());
    }
    Err(format!(
        "there are no credentials. Set {wants} in the environment, or set {SWITCH}=true to use \
         this machine's own role (EC2, Compute Engine, Azure) through its metadata service"
    ))
}

/// Returns whether stores read a value as true.
fn is_true(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&value.to_lowercase().as_str())
}

pub(super) fn check_aws(builder: &AmazonS3Builder) -> Result<(), String> {
    let has = |key: Aws| builder.get_config_value(&key).is_some();
    let own = builder.get_config_value(&Aws::SkipSignature).is_some_and(|value| is_true(&value))
        || has(Aws::AccessKeyId)
        || has(Aws::SecretAccessKey)
        || (has(Aws::WebIdentityTokenFile) && has(Aws::RoleArn))
        || has(Aws::ContainerCredentialsRelativeUri)
        || (has(Aws::ContainerCredentialsFullUri) && has(Aws::ContainerAuthorizationTokenFile));
    check(
        own,
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SKIP_SIGNATURE=true for a public bucket)",
    )
}

pub(super) fn check_google(builder: &GoogleCloudStorageBuilder) -> Result<(), String> {
    let has = |key: Google| builder.get_config_value(&key).is_some();
    // The location in which `gcloud auth application-default login` stores credentials.
    let default = std::env::home_dir().is_some_and(|home| {
        home.join(".config/gcloud/application_default_credentials.json").exists()
    });
    let own = builder.get_config_value(&Google::SkipSignature).is_some_and(|value| is_true(&value))
        || has(Google::ServiceAccount)
        || has(Google::ServiceAccountKey)
        || has(Google::ApplicationCredentials)
        || default;
    check(
        own,
        "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT (GOOGLE_SKIP_SIGNATURE=true for \
         a public bucket)",
    )
}

pub(super) fn check_azure(builder: &MicrosoftAzureBuilder) -> Result<(), String> {
    let has = |key: Azure| builder.get_config_value(&key).is_some();
    let is = |key: Azure| builder.get_config_value(&key).is_some_and(|value| is_true(&value));
    let application = has(Azure::ClientId) && has(Azure::AuthorityId);
    let fabric = has(Azure::FabricTokenServiceUrl)
        && has(Azure::FabricWorkloadHost)
        && has(Azure::FabricSessionToken)
        && has(Azure::FabricClusterIdentifier);
    let own = is(Azure::SkipSignature)
        || is(Azure::UseEmulator)
        || is(Azure::UseAzureCli)
        || has(Azure::Token)
        || has(Azure::AccessKey)
        || has(Azure::SasKey)
        || (application && (has(Azure::FederatedTokenFile) || has(Azure::ClientSecret)))
        || fabric;
    check(
        own,
        "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY (AZURE_SKIP_SIGNATURE=true for a \
         public container)",
    )
}
