"""All events, by whose they are, and the version of their form."""

from typing import Final, TypeAlias

from perstackd.domain.events.compaction import CompactionFailed, ContextCompacted
from perstackd.domain.events.job import JobAdmitted, JobCreated, JobFinished, JobPaused, JobQueued, JobResumed
from perstackd.domain.events.people import (
    ApprovalDecided,
    ApprovalRequested,
    CallInteractiveTool,
    ElicitationRequested,
    QuestionAnswered,
)
from perstackd.domain.events.run import (
    CompleteRun,
    ContinueToNextStep,
    HistoryInherited,
    ReasoningMapped,
    Retry,
    StartGeneration,
    StartRun,
    StopRunByCancel,
    StopRunByDelegate,
    StopRunByError,
    StopRunByExceededBudget,
    StopRunByExceededMaxSteps,
    StopRunByInteractiveTool,
)
from perstackd.domain.events.sandbox import (
    EgressDenied,
    InitializeRuntime,
    ProxyAccess,
    SandboxAssigned,
    SandboxReleased,
    SecretReleased,
)
from perstackd.domain.events.skill import (
    SkillConnected,
    SkillDisconnected,
    SkillStarting,
    SkillStderr,
    SkillToolsChanged,
    ToolRenamed,
)
from perstackd.domain.events.tools import (
    AttemptCompletion,
    CallDelegate,
    CallTools,
    FinishAllToolCalls,
    FinishToolCall,
    ResolveToolResults,
    ResumeToolCalls,
)

SCHEMA: Final = 1

JobPayload: TypeAlias = JobCreated | JobQueued | JobAdmitted | JobPaused | JobResumed | JobFinished
RuntimePayload: TypeAlias = (
    SandboxAssigned
    | SandboxReleased
    | InitializeRuntime
    | SecretReleased
    | SkillStarting
    | SkillConnected
    | SkillStderr
    | SkillDisconnected
    | SkillToolsChanged
    | ToolRenamed
    | ReasoningMapped
    | EgressDenied
    | ProxyAccess
)
RunPayload: TypeAlias = (
    HistoryInherited
    | StartRun
    | StartGeneration
    | Retry
    | CallTools
    | CallDelegate
    | CallInteractiveTool
    | ApprovalRequested
    | ElicitationRequested
    | QuestionAnswered
    | ApprovalDecided
    | ResolveToolResults
    | AttemptCompletion
    | FinishToolCall
    | ResumeToolCalls
    | FinishAllToolCalls
    | ContinueToNextStep
    | ContextCompacted
    | CompactionFailed
    | CompleteRun
    | StopRunByInteractiveTool
    | StopRunByDelegate
    | StopRunByExceededMaxSteps
    | StopRunByExceededBudget
    | StopRunByError
    | StopRunByCancel
)
Payload: TypeAlias = JobPayload | RuntimePayload | RunPayload
