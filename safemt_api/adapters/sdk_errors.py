"""What kind of thing each exception class of each SDK stands for: a table, by class name, so that no SDK is imported to read it.

A test walks the installed SDKs and fails when one has a class that the table lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Kind = Literal["status", "network", "garbled", "address", "setup"]
"""``status``: an answer with a status; ``network``: no or half an answer; ``garbled``: an answer that cannot be read;
``address``: the URL cannot be used; ``setup``: raised by parts of the SDK that no adapter uses."""

_ANTHROPIC_STATUS = """
    APIStatusError BadRequestError AuthenticationError PaymentRequiredError PermissionDeniedError NotFoundError RequestTimeoutError
    ConflictError PreconditionFailedError ContentTooLargeError UnprocessableEntityError RateLimitError RequestHeaderFieldsTooLargeError
    ClientClosedRequestError InternalServerError HTTPNotImplementedError ServiceUnavailableError GatewayTimeoutError OverloadedError
    AlreadyMemberError AvailableToolsLimitExceededError BetaAPIKeyScopeMissingError BetaBundleAttachmentNotSupportedError
    BetaBundleOnCallError BetaCMEKFeatureUnsupportedError BetaCannotSignOutManagedMemberError BetaCannotSignOutMembershipAdminError
    BetaCannotSignOutOwnerError BetaCannotSignOutPrimaryOwnerError BetaCannotSignOutPrivilegedMemberError BetaCannotSignOutSelfError
    BetaClaudeTagWritesNotEnabledError BetaComplianceConfigurationRestrictedError BetaEnvironmentArchivedError
    BetaEnvironmentCreateDisabledError BetaEnvironmentNotFoundError BetaEnvironmentUpdateDisabledError BetaHeartbeatPreconditionFailedError
    BetaInvalidConfigTypeChangeError BetaInvalidMetadataError BetaOrganizationLevelScopedAPIKeyRequiredError
    BetaOrganizationNotEnrolledInBetaError BetaPluginNameTakenError BetaRBACGroupManagedSettingsNotFoundError BetaRBACGroupNotFoundError
    BetaRBACGroupOrderLimitExceededError BetaRegistrationPendingError BetaRequestBodyTimeoutError BetaScanFailedError BetaScanPendingError
    BetaSettingsDocumentLimitExceededError BetaSettingsHistoryLimitExceededError BetaSkillNameTakenError
    BetaSlackChannelSetUpEnvironmentNotFoundError BetaSlackChannelSetUpSettingsConflictError BetaSlackChannelSetUpSettingsRefusedError
    BetaSpendLimitsAdminAPIWritesNotEnabledError BetaUnsupportedCharsetError CMEKContextUnavailableError CMEKKeyDisabledError
    CMEKKeyNetworkBlockedError CMEKKeyUnreachableError CannotInviteEmailsWithUnverifiedDomainsError CannotRemoveLastMemberError
    ClaudeCodeKeyCreatorNotMemberError ClaudeCodeVersionTooOldError CompactionBlockAmbiguousError CompactionBlockMisplacedError
    CompactionContentMismatchError CompactionIncompleteTurnError CompactionNothingToSummarizeError CompactionSignatureInvalidError
    CompactionTooManyToolReferencesError CompactionToolChangesMismatchError CompactionUnavailableError ConcurrentMembershipChangeError
    ContractSpendLimitReachedError EmailDomainNotAllowedError EnforcedSpendLimitReachedError ExternalKeyChangedError
    ExternalKeyInWorkspacePolicyError ExternalKeyValidationFailedError ExternalKeyValidationTimedOutError FileExpiredError
    FileNotDownloadableError ImageDimensionsTooLargeError InviteAlreadyExistsError KeyProfileMismatchError
    LinkedOrganizationBillingUnavailableError LinkedOrganizationSpendLimitReachedError OrgAPIKeyLimitExceededError
    OrgMemberLimitExceededError OrganizationOnHoldError OrganizationTypeNotSupportedError ParentOrganizationRequiredError
    RBACGroupGrantsOwnerAccessError RBACGroupOwnerAccessUnconfirmedError RBACRoleNotFoundError RampLimitExceededError
    RequestBodyEncodingInvalidError RequestBodyEncodingUnsupportedError RequestBodyTooLargeAfterDecodingError SandboxEgressRestrictedError
    SkillReadBlockedUndecryptableError StorageQuotaExceededError ThreadAlreadyContinuedError ThreadContinueInFlightError
    ThreadFingerprintMismatchError ThreadNotFoundError ThreadUnsupportedRequestError ToolNameConflictError ToolReferenceUnresolvedError
    UserProfileBillingNotAuthorizedError UserProfileNotBillableError UserProfileNotFoundError UserProfileRequiredError
    WorkspaceAPIKeyLimitExceededError WorkspaceMemberLimitExceededError WorkspacePolicyViolationError
"""
_ANTHROPIC_SETUP = """
    AnthropicError CredentialsError IdentityTokenFileError WorkloadIdentityError MissingDependencyError MutuallyExclusiveAuthError
    RetryableError StreamAlreadyConsumed ToolsetClosedError ToolsetConfigError ToolsetContractError ToolsetUsageError ToolsetsFixedError
    APIWebhookValidationError
"""
_OPENAI_STATUS = """
    APIStatusError BadRequestError AuthenticationError OAuthError PermissionDeniedError NotFoundError ConflictError UnprocessableEntityError
    RateLimitError InternalServerError
"""
_OPENAI_SETUP = """
    OpenAIError SubjectTokenProviderError WebSocketConnectionClosedError WebSocketQueueFullError _AmbiguousModuleClientUsageError
    StreamAlreadyConsumed APIRemovedInV1 MutuallyExclusiveAuthError
"""
_GOOGLE_STATUS = """
    APIError ClientError ServerError
    APIStatusError BadRequestError AuthenticationError PermissionDeniedError NotFoundError ConflictError UnprocessableEntityError
    RateLimitError InternalServerError GenAiError GenAiDefaultError
"""
"""The first line is of ``google.genai.errors``; the others are of the second client inside the SDK, which serves the decisions."""

_GOOGLE_SETUP = """
    UnknownFunctionCallArgumentError UnsupportedFunctionError FunctionInvocationError GeminiNextGenAPIClientError
    CreateInteractionClientError CreateInteractionServerError GetInteractionByIDClientError GetInteractionByIDServerError
    CancelInteractionByIDClientError CancelInteractionByIDServerError DeleteInteractionClientError DeleteInteractionServerError
"""
_NETWORK = "APIError APIConnectionError APITimeoutError"
_GARBLED = "APIResponseValidationError"


def _rows(kind: Kind, names: str) -> dict[str, Kind]:
    return dict.fromkeys(names.split(), kind)


KINDS: Mapping[str, Mapping[str, Kind]] = {
    "openai": {
        **_rows("status", _OPENAI_STATUS),
        **_rows("network", _NETWORK),
        **_rows("garbled", _GARBLED + " LengthFinishReasonError ContentFilterFinishReasonError"),
        **_rows("setup", _OPENAI_SETUP),
    },
    "anthropic": {
        **_rows("status", _ANTHROPIC_STATUS),
        **_rows("network", _NETWORK),
        **_rows("garbled", _GARBLED),
        **_rows("setup", _ANTHROPIC_SETUP),
    },
    "google": {
        **_rows("status", _GOOGLE_STATUS),
        **_rows("network", "APIConnectionError APITimeoutError NoResponseError"),
        **_rows("garbled", "UnknownApiResponseError ContinuationInterruptedError APIResponseValidationError ResponseValidationError"),
        **_rows("setup", _GOOGLE_SETUP),
    },
    "httpx2": {
        **_rows(
            "network",
            """HTTPError RequestError TransportError TimeoutException ConnectTimeout ReadTimeout WriteTimeout PoolTimeout NetworkError
            ConnectError ReadError WriteError CloseError ProtocolError RemoteProtocolError ProxyError""",
        ),
        **_rows("status", "HTTPStatusError"),
        **_rows("garbled", "DecodingError SSEError StreamError StreamConsumed StreamClosed ResponseNotRead RequestNotRead"),
        **_rows("address", "UnsupportedProtocol InvalidURL TooManyRedirects LocalProtocolError CookieConflict"),
    },
    "builtins": _rows("garbled", "UnicodeDecodeError RecursionError"),
}
"""Kind of every exception class by SDK; a class that is missing counts as its nearest base class that is listed."""

NOT_CONNECTED = frozenset({"ConnectError", "ConnectTimeout", "ProxyError", "PoolTimeout"})
"""httpx2 exceptions before the server had accepted the connection: nothing was sent, nothing can be billed."""


def kind_of(error: BaseException) -> Kind:
    """What kind of thing happened, by the nearest class that ``KINDS`` lists; ``setup`` for strangers."""
    for cls in type(error).__mro__:
        kind = KINDS.get(cls.__module__.partition(".")[0], {}).get(cls.__name__)
        if kind is not None:
            return kind
    return "setup"
