//! Every phrase of the pages in every language: one table, which does not compile with a hole in it.

/// A language of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Language {
    #[default]
    English,
    Chinese,
}

impl Language {
    /// For `lang=` and the cookie.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Language::English => "en",
            Language::Chinese => "zh-CN",
        }
    }

    /// In the language itself.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Language::English => "English",
            Language::Chinese => "中文",
        }
    }

    /// What a cookie or link says.
    pub(crate) fn chosen(code: Option<&str>) -> Option<Language> {
        [Language::English, Language::Chinese].into_iter().find(|language| code == Some(language.code()))
    }

    /// The first of a browser's languages that there is; browsers list them by preference.
    pub(crate) fn accepted(header: Option<&str>) -> Option<Language> {
        header?.split(',').find_map(|part| match part.trim().get(..2)?.to_ascii_lowercase().as_str() {
            "en" => Some(Language::English),
            "zh" => Some(Language::Chinese),
            _ => None,
        })
    }
}

macro_rules! phrases {
    ($($phrase:ident: $english:literal, $chinese:literal;)*) => {
        /// What a page says.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Phrase { $($phrase,)* }

        impl Phrase {
            #[cfg(test)]
            const ALL: &'static [Phrase] = &[$(Phrase::$phrase,)*];

            pub(crate) fn text(self, language: Language) -> &'static str {
                match (self, language) {
                    $((Phrase::$phrase, Language::English) => $english,
                    (Phrase::$phrase, Language::Chinese) => $chinese,)*
                }
            }
        }
    };
}

phrases! {
    // The frame, and signing in.
    SkipToContent: "Skip to content", "跳到正文";
    Menu: "Main menu", "主菜单";
    ReadOnly: "read only", "只读";
    SignIn: "Sign in", "登录";
    SignOut: "Sign out", "退出登录";
    SignInWith: "With access key and secret key of a user of type Super, or as the viewer of this dashboard.",
        "请使用 Super 类型用户的 Access Key 和 Secret Key 登录，或以本控制台的只读用户登录。";
    AccessKey: "User (access key)", "用户（Access Key）";
    SecretKey: "Password (secret key)", "密码（Secret Key）";
    WrongKeys: "No such user, or the secret key is not its.", "用户不存在，或密钥不正确。";
    ConnectionLost: "The dashboard does not answer; what is shown may be old.", "控制台没有响应，当前显示的内容可能已过期。";
    TimesInUtc: "All times in UTC", "所有时间均为 UTC";
    NotFound: "Not found", "未找到";
    NotDone: "Not done", "未完成";
    NoSuchPage: "There is no such page.", "没有这个页面。";
    FormTooOld: "This form is from another browser or from before the dashboard was started; open the page again.",
        "此表单来自其他浏览器，或早于控制台的本次启动，请重新打开页面。";
    MayOnlyLook: "Here one may only look.", "当前只能查看，不能更改。";
    TypeToConfirm: "To confirm, type", "请输入以确认：";
    NotConfirmed: "Not done: the name was not typed as it is.", "未执行：输入的名称不一致。";
    Nothing: "nothing", "无";
    All: "all", "全部";
    Yes: "yes", "是";
    No: "no", "否";
    To: "to", "目标";
    Search: "Search", "查询";
    SearchBy: "Search by", "查询方式";
    SortBy: "Sort by", "排序";
    Name: "name", "名称";
    NameContains: "Name contains", "名称包含";
    PagesOfTable: "Pages of the table", "表格分页";
    PageBefore: "Previous", "上一页";
    PageAfter: "Next", "下一页";
    GoOnReading: "Go on reading", "继续查询";

    // Overview and cluster.
    Overview: "Overview", "概览";
    MessagesPerSecond: "Messages a second", "每秒消息数";
    In: "In", "写入";
    Out: "Out", "投递";
    Backlog: "Backlog", "积压";
    NodesUp: "Nodes that answer", "在线节点";
    GroupsLed: "Groups with a leader", "有主的 Broker 组";
    FsyncP99: "fsync p99", "fsync p99 耗时";
    BrokerGroup: "Broker group", "Broker 组";
    BrokerGroups: "Broker groups", "Broker 组列表";
    Nodes: "Nodes", "节点列表";
    Node: "Node", "节点";
    Role: "Role", "角色";
    Term: "Term", "任期";
    Lag: "Lag", "落后量";
    Leader: "Leader", "主节点";
    Follower: "Follower", "从节点";
    Learner: "Learner", "学习者";
    Candidate: "Candidate", "候选者";
    Down: "does not answer", "无响应";
    NoLeader: "No leader", "没有主节点";
    LeaderChanges: "Changes of leaders", "主节点变更";
    TopTopics: "Topics with most traffic", "流量最高的主题";
    CallLatencies: "How long calls take", "调用耗时";
    Call: "Call", "调用";
    CallsLately: "Calls lately", "近期调用数";
    Median: "p50", "p50 耗时";
    Slowest: "p99", "p99 耗时";
    Receive: "Receive", "接收";
    Acknowledge: "Acknowledge", "确认消费";
    LatenciesExplained: "Of the last one to two minutes. A receive counts without its wait for messages.", "统计最近一到两分钟。接收耗时不含等待消息的时间。";
    CountedPartly: "There are many topics; those without consumers are counted in part.", "主题较多，没有消费者的主题只统计了一部分。";
    MessagesEver: "Messages so far", "累计消息数";
    Time: "Time", "时间";
    Cluster: "Cluster", "集群";
    NoGroups: "No broker has reported to the name servers so far.", "还没有 Broker 向 NameServer 上报。";
    NoSuchGroup: "There is no such broker group", "没有这个 Broker 组";
    NoSuchNode: "There is no such node", "没有这个节点";
    LogIndex: "Log index", "日志序号";
    LastIndex: "Last index", "最新日志序号";
    Committed: "Committed", "已提交";
    Applied: "Applied", "已应用";
    Purged: "Trimmed up to", "已清理至";
    DiskUsed: "Disk used", "磁盘使用率";
    Disks: "Disks", "磁盘";
    DiskFree: "Free", "可用空间";
    CleanMark: "Old messages go at any hour above", "超过此使用率随时清理过期消息";
    ForceMark: "Oldest messages go early above", "超过此使用率提前清理最旧消息";
    RefusalMark: "Sends are refused with less free", "可用空间低于此值时拒绝发送";
    MarksExplained: "diskMaxUsedSpaceRatio, diskSpaceCleanForciblyRatio while cleanFileForciblyEnable is on, and diskFreeBytesMin with a segment of the log. The leader goes by the fullest disk of its broker group.",
        "分别为 diskMaxUsedSpaceRatio、开启 cleanFileForciblyEnable 时的 diskSpaceCleanForciblyRatio，以及 diskFreeBytesMin 加一个日志段。主节点以 Broker 组内最满的磁盘为准。";
    Never: "never", "从不";
    LogSize: "Log", "日志大小";
    OldestMessage: "Oldest message", "最早消息";
    Uptime: "Up for", "运行时长";
    Version: "Version", "版本";
    ClientAddress: "For clients", "客户端地址";
    AdminAddress: "For mqadmin", "管理地址";
    PeerAddress: "For peers", "成员间地址";
    PeersOfLeader: "Members as the leader sees them", "主节点看到的成员";
    Voter: "Votes", "有投票权";
    Voters: "Voters:", "投票成员数：";
    Matched: "Matched index", "匹配序号";
    LastAckMs: "Heard from (ms ago)", "上次应答（毫秒前）";
    TransferLeadership: "Transfer leadership", "转移主节点";
    ClosestBehind: "the member that is closest behind", "进度最接近的成员";
    LeadershipWent: "Leadership", "主节点转移";
    RemoveMember: "Remove member", "移除成员";
    RemovalIsFinal: "The node loses its vote and its place in the broker group; with one member fewer, fewer may be down. A lost node is better replaced: mqadmin replacePeer.",
        "该节点将失去投票权并离开 Broker 组；成员越少，可容忍的故障越少。丢失的节点最好替换：mqadmin replacePeer。";
    AdmitNode: "Admit a node", "接纳节点";
    AdmissionExplained: "An empty node that was started with the members in its dLegerPeers logs a line that begins with mqadmin addPeer or replacePeer. Paste it here. It takes until the node has caught up; what is broken off goes on when it is sent again.",
        "以现有成员作为 dLegerPeers 启动的空节点会在日志中打印以 mqadmin addPeer 或 replacePeer 开头的一行，请粘贴到此处。操作会持续到该节点追上进度；中断后再次提交即可继续。";
    LineOfLog: "The line of its log", "日志中的该行";
    NoSuchLine: "This is no line with mqadmin addPeer or replacePeer and all that belongs to it.", "这不是完整的 mqadmin addPeer 或 replacePeer 命令行。";
    NodeAdmitted: "is a member", "已成为成员";
    MemberRemoved: "removed", "已移除";
    Configuration: "Configuration", "配置";
    Key: "Key", "键";
    Value: "Value", "值";
    Source: "From", "来源";
    Default: "default", "默认值";
    Remark: "Remark", "备注";
    NoEffect: "no effect here", "在此无作用";

    // Topics.
    Topics: "Topics", "主题列表";
    Topic: "Topic", "主题";
    MessageType: "Message type", "消息类型";
    Queues: "Queues", "队列列表";
    Queue: "Queue", "队列";
    LiteTopics: "Lite topics", "轻量主题";
    ReadQueues: "Read queues", "读队列数";
    WriteQueues: "Write queues", "写队列数";
    Permission: "Permission", "权限";
    Attributes: "Attributes", "属性";
    Created: "Created", "创建时间";
    Changed: "Changed", "修改时间";
    FirstOffset: "First offset", "最小位点";
    NextOffset: "Next offset", "最大位点";
    MessagesKept: "Messages kept", "现存消息数";
    LastMessage: "Last message", "最后写入";
    Route: "Route", "路由";
    NoSuchTopic: "There is no such topic", "没有这个主题";
    NewTopic: "Create a topic", "新建主题";
    ChangeTopic: "Change the topic", "修改主题";
    DeleteTopic: "Delete the topic", "删除主题";
    DeletionIsFinal: "It goes in every broker group and does not come back.", "将在所有 Broker 组中删除，且无法恢复。";
    TopicStored: "topic stored", "主题已保存";
    Deleted: "deleted", "已删除";
    SendTestMessage: "Send a test message", "发送测试消息";
    Send: "Send", "发送";
    MessageStored: "Message stored", "消息已存储";
    FieldMissing: "Fill in for this type", "此类型需要填写";
    Priority: "Priority", "优先级";
    LiteTopic: "Lite topic", "轻量主题名称";
    UserProperties: "User properties, one a line", "用户属性（每行一个）";

    // Consumers and producers.
    Consumers: "Consumers", "消费者";
    ConsumerGroup: "Consumer group", "消费者组";
    Clients: "Clients", "客户端列表";
    Client: "Client", "客户端";
    InFlight: "In flight", "处理中";
    Retrying: "To be retried", "待重试";
    Ordered: "In order", "顺序消费";
    Progress: "Progress", "消费位点";
    ProgressByQueue: "Progress by queue", "各队列消费进度";
    LastConsumed: "Consumed up to", "消费到的时间";
    Language: "Language", "语言";
    Host: "Host", "主机";
    Address: "Address", "地址";
    Subscriptions: "Subscriptions", "订阅关系";
    FilterKind: "Filter", "过滤方式";
    Expression: "Expression", "表达式";
    FiltersDiffer: "Members filter this topic in different ways; they should have one filter", "组内成员对此主题的过滤条件不一致，应当相同";
    ConsumeEnabled: "May consume", "允许消费";
    RetriesMax: "Retries at most", "最大重试次数";
    NoSuchConsumerGroup: "There is no such consumer group", "没有这个消费者组";
    NewConsumerGroup: "Create a consumer group", "新建消费者组";
    ChangeConsumerGroup: "Change the consumer group", "修改消费者组";
    DeleteConsumerGroup: "Delete the consumer group", "删除消费者组";
    GroupStored: "consumer group stored", "消费者组已保存";
    ResetToTime: "Reset to a time", "重置到时间点";
    ResetVoidsLeases: "Consumers may go on running; what they hold then is void and comes again.", "消费者无需停止；其手中的消息随即失效并会重新投递。";
    SkipBacklog: "Skip the backlog", "跳过积压";
    SkippingIsFinal: "What waits counts as consumed and is not delivered to this group.", "积压的消息将视为已消费，不再投递给该组。";
    TimeUtc: "Time (UTC)", "时间（UTC）";
    TimeMissing: "Say to which time.", "请填写时间。";
    OnlyQueue: "Only queue", "仅此队列";
    GroupMoved: "moved", "位点已移动";
    MoveProgress: "Reset or skip", "重置或跳过";
    Producers: "Producers", "生产者";
    Producer: "Producer", "生产者客户端";

    // Messages.
    Messages: "Messages", "消息";
    Message: "Message", "消息详情";
    MessageId: "Message id", "消息 ID";
    IdOrKey: "Id or key", "消息 ID 或 Key";
    IdOrKeyMissing: "Say which id or key.", "请填写消息 ID 或 Key。";
    FromUtc: "From (UTC)", "开始时间（UTC）";
    UntilUtc: "Until (UTC)", "结束时间（UTC）";
    TimesMakeSearchesShort: "Ids and keys have no index: a search reads the log, and is short where the time is narrow. Times as 2026-11-23 18:00:00.",
        "消息 ID 和 Key 没有索引，查询会读取日志；时间范围越小越快。时间格式：2026-11-23 18:00:00。";
    NoSuchMessage: "There is no such message", "没有这条消息";
    QueueAndOffset: "Queue and offset", "队列与位点";
    StoredAt: "Stored", "存储时间";
    BornAt: "Made", "产生时间";
    DeliverAt: "Deliver at (UTC)", "投递时间（UTC）";
    Attempt: "Attempt", "投递次数";
    Tag: "Tag", "Tag 标签";
    Keys: "Keys", "Key 列表";
    MessageGroup: "Message group", "消息组";
    Body: "Body", "消息体";
    BodyCut: "shown up to", "仅显示前";
    Properties: "Properties", "消息属性";
    State: "State", "状态";
    NotConsumedYet: "not consumed yet", "尚未消费";
    BehindInMessageGroup: "behind an unfinished one of its message group", "等待同一消息组中更早的消息";
    Finished: "acknowledged, or wanted by no filter", "已确认，或不符合任何过滤条件";
    TooMuchToLook: "not known: there is too much to look through", "未知：需要查找的内容过多";
    Since: "Since", "开始于";
    Until: "Until", "截止于";
    History: "What was done to it", "处理历史";
    Event: "Event", "事件";
    EventStored: "stored", "已存储";
    EventVisible: "visible: due, or committed", "可见：已到投递时间或事务已提交";
    EventDue: "due", "到达投递时间";
    EventMade: "made by its producer", "由生产者产生";
    EventLeased: "handed out", "已投递给客户端";
    EventAskedAgain: "asked for again", "客户端再次请求";
    EventConfirmed: "reached its client", "客户端已收到";
    EventExtended: "invisible time changed", "不可见时间已修改";
    EventAcknowledged: "acknowledged", "已确认";
    EventGivenBack: "given back", "客户端已退回";
    EventRanOut: "lease ran out", "租约到期";
    EventSessionEnded: "its client is gone", "客户端会话已结束";
    EventDeadLettered: "dead letter", "进入死信";

    // Dead letters, delayed messages, transactions.
    DeadLetters: "Dead letters", "死信";
    GroupsWithDeadLetters: "Consumer groups with a dead letter topic", "有死信主题的消费者组";
    DeadLetterOf: "Dead letter of", "死信来源";
    OriginTopic: "Its topic", "原主题";
    OriginId: "Its id", "原消息 ID";
    Resend: "Send again", "重新发送";
    ResendChosen: "Send the chosen ones again", "重新发送所选";
    LettersSent: "Sent again:", "已重新发送：";
    NothingChosen: "None was chosen.", "没有选择任何消息。";
    NoOrigin: "This message is no dead letter that names its topic", "此消息不是带有原主题的死信";
    TopicTakesNone: "This message has no message group or lite topic, and its topic takes only", "此消息没有消息组或轻量主题，而原主题只接受";
    Delayed: "Delayed", "定时消息";
    Recall: "Take back", "撤回";
    DelayedByTime: "Delayed messages by the time at which they are due", "按投递时间排列的定时消息";
    DeliveryTime: "Due", "到期时间";
    DueIn: "In", "剩余时间";
    WaitingMessages: "Messages that wait:", "等待中的消息数：";
    WaitingMessage: "A message that waits", "等待中的消息";
    WaitsNoMore: "It does not wait any more: it was delivered, taken back, or ended", "消息已不在等待：已投递、已撤回或事务已结束";
    RecallExplained: "A delayed message can be taken back before its time, from the list, or with the handle that its sender got.", "定时消息在投递之前可以从列表中撤回，或凭发送时得到的句柄撤回。";
    RecallHandle: "Recall handle", "撤回句柄";
    Recalled: "Taken back", "已撤回";
    Transactions: "Transactions", "事务消息";
    PendingTransactions: "Transactions that are open", "未结束的事务";
    FirstWordCounts: "The first word counts: what the producer says later is refused.", "先到者为准：生产者之后的决定会被拒绝。";
    TransactionId: "Transaction id", "事务 ID";
    Checks: "Asked", "已回查";
    ProducerAsked: "producers were asked", "已向生产者回查";
    NobodyAskedAfter: "nobody is asked after this", "此后不再回查";
    Size: "Size", "大小";
    Resolve: "End it", "处理";
    OnlyParked: "only those whose producers are not asked any more", "仅不再回查的";
    Parked: "parked", "已停止回查";
    Pending: "open", "进行中";
    Commit: "Commit", "提交";
    RollBack: "Roll back", "回滚";
    CommittedMessage: "committed", "已提交事务";
    RolledBack: "rolled back", "已回滚事务";

    // Users and access rules.
    Users: "Users", "用户列表";
    User: "User", "用户";
    UserType: "Type", "用户类型";
    UserStatus: "Status", "用户状态";
    Enabled: "enabled", "已启用";
    Disabled: "disabled", "已禁用";
    RateMessages: "Messages a second at most", "每秒消息上限";
    RateBytes: "Bytes a second at most", "每秒字节上限";
    Unlimited: "unlimited", "不限";
    NewSecret: "Secret key", "新密钥";
    UsersExplained: "Users count where authenticationEnabled is set. Super may do everything, Normal what its access rules say.", "仅在启用 authenticationEnabled 后生效。Super 拥有全部权限，Normal 按访问规则授权。";
    NewUser: "Create a user", "新建用户";
    ChangeUser: "Change the user", "修改用户";
    DeleteUser: "Delete the user", "删除用户";
    UserDeletionIsFinal: "The user goes with its access rules, and its clients are refused.", "该用户及其访问规则将被删除，其客户端会被拒绝。";
    NoSuchUser: "There is no such user", "没有这个用户";
    UserStored: "user stored", "用户已保存";
    AccessRules: "Access rules", "访问规则";
    Resource: "Resource", "资源";
    Actions: "Actions", "操作";
    SourceAddresses: "From addresses", "来源地址";
    Decision: "Decision", "决定";
    Policy: "Policy", "策略";
    Remove: "Remove", "移除";
    PutRule: "Put a rule", "设置规则";
    RulesExplained: "Topic:orders, Group:bill*, Topic:*, or * for everything. The most exact resource decides, and of two alike the one that denies. A rule for the same resource is replaced.",
        "例如 Topic:orders、Group:bill*、Topic:*，或用 * 表示全部。最精确的资源优先，同级时拒绝优先。同一资源的规则会被替换。";
    RuleStored: "rule stored", "规则已保存";
    RuleRemoved: "rule removed", "规则已移除";
}

#[cfg(test)]
mod tests {
    use super::{Language, Phrase};
    use std::collections::BTreeMap;

    #[test]
    fn every_phrase_is_there_in_both_languages() {
        let mut chinese: BTreeMap<&str, Phrase> = BTreeMap::new();
        for phrase in Phrase::ALL {
            let (en, zh) = (phrase.text(Language::English), phrase.text(Language::Chinese));
            assert!(!en.trim().is_empty() && !zh.trim().is_empty(), "{phrase:?}");
            assert!(en.is_ascii(), "{phrase:?} in English: {en}");
            let has_han = zh.chars().any(|sign| ('\u{4e00}'..='\u{9fff}').contains(&sign));
            assert!(has_han, "{phrase:?} is not translated: {zh}");
            // Two meanings in one word would not be told apart in a table's head.
            if let Some(other) = chinese.insert(zh, *phrase) {
                assert_eq!(other.text(Language::English), en, "{other:?} and {phrase:?} are both {zh}");
            }
        }
    }

    #[test]
    fn languages_as_browsers_ask_for_them() {
        for (header, expected) in [
            (Some("zh-CN,zh;q=0.9,en;q=0.8"), Some(Language::Chinese)),
            (Some("de, EN-gb;q=0.8"), Some(Language::English)),
            (Some("de"), None),
            (Some("é"), None),
            (None, None),
        ] {
            assert_eq!(Language::accepted(header), expected, "{header:?}");
        }
        assert_eq!(Language::chosen(Some("zh-CN")), Some(Language::Chinese));
        assert_eq!(Language::chosen(Some("<script>")), None);
    }
}
