import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.MessageListener;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/**
 * The official Java client (rocketmq-client-java) against a running cluster: {@code SCENARIO ACCESS TOPIC GROUP COUNT}.
 *
 * <p>The last line on stdout is RESULT and a JSON object, which tests/tests/official.rs judges. TLS is on, as this
 * client has it by itself, unless the environment says OFFICIAL_TLS=0.
 */
public final class Official {
    private static final ClientServiceProvider CLIENT = ClientServiceProvider.loadService();
    private static final int SEND_IN_FLIGHT = 64;
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    private interface Scenario {
        Map<String, Object> run(Official official) throws Exception;
    }

    private static final Map<String, Scenario> SCENARIOS = Map.ofEntries(
        Map.entry("send", Official::send),
        Map.entry("roundtrip", Official::roundtrip),
        Map.entry("push", Official::push),
        Map.entry("redelivery", Official::redelivery),
        Map.entry("retry", Official::retry),
        Map.entry("filter", Official::filter),
        Map.entry("sql", Official::sql),
        Map.entry("invisible", Official::invisible),
        Map.entry("hold", Official::hold),
        Map.entry("take", Official::take),
        Map.entry("carry", Official::carry),
        Map.entry("orphan", Official::orphan));

    private final String access;
    private final String topic;
    private final String group;
    private final int count;

    private Official(String access, String topic, String group, int count) {
        this.access = access;
        this.topic = topic;
        this.group = group;
        this.count = count;
    }

    public static void main(String[] arguments) {
        try {
            Official official =
                new Official(arguments[1], arguments[2], arguments[3], Integer.parseInt(arguments[4]));
            Scenario scenario = SCENARIOS.get(arguments[0]);
            if (scenario == null) {
                throw new IllegalArgumentException("no scenario is called " + arguments[0]);
            }
            say("RESULT " + json(scenario.run(official)));
            // The client leaves threads behind that a normal end would wait for.
            Runtime.getRuntime().halt(0);
        } catch (Throwable failure) {
            failure.printStackTrace();
            Runtime.getRuntime().halt(1);
        }
    }

    // What every scenario is made of.

    private ClientConfiguration configuration() {
        boolean tls = !"0".equals(System.getenv("OFFICIAL_TLS"));
        return ClientConfiguration.newBuilder().setEndpoints(access).enableSsl(tls).build();
    }

    private Producer producer() throws ClientException {
        return CLIENT.newProducerBuilder().setClientConfiguration(configuration()).setTopics(topic).build();
    }

    private SimpleConsumer simpleConsumer() throws ClientException {
        return CLIENT.newSimpleConsumerBuilder().setClientConfiguration(configuration()).setConsumerGroup(group)
            .setAwaitDuration(Duration.ofSeconds(5))
            .setSubscriptionExpressions(Map.of(topic, FilterExpression.SUB_ALL)).build();
    }

    private PushConsumer pushConsumer(FilterExpression filter, int threads, MessageListener listener)
        throws ClientException {
        return CLIENT.newPushConsumerBuilder().setClientConfiguration(configuration()).setConsumerGroup(group)
            .setSubscriptionExpressions(Map.of(topic, filter)).setConsumptionThreadCount(threads)
            .setMessageListener(listener).build();
    }

    private PushConsumer pushConsumer(MessageListener listener) throws ClientException {
        return pushConsumer(FilterExpression.SUB_ALL, 8, listener);
    }

    /** The message whose body is its sequence number. */
    private Message message(int sequence, String tag) {
        return CLIENT.newMessageBuilder().setTopic(topic).setBody(Integer.toString(sequence).getBytes(StandardCharsets.UTF_8))
            .setTag(tag).setKeys("key-" + sequence).addProperty("sequence", Integer.toString(sequence)).build();
    }

    private static String body(MessageView message) {
        return StandardCharsets.UTF_8.decode(message.getBody()).toString();
    }

    private static boolean intact(MessageView message, String tag) {
        return body(message).equals(message.getProperties().get("sequence"))
            && message.getTag().filter(tag::equals).isPresent()
            && message.getKeys().equals(List.of("key-" + body(message)));
    }

    private void sendAll() throws Exception {
        try (Producer producer = producer()) {
            Semaphore permits = new Semaphore(SEND_IN_FLIGHT);
            List<CompletableFuture<SendReceipt>> sends = new ArrayList<>();
            for (int sequence = 0; sequence < count; sequence++) {
                permits.acquire();
                CompletableFuture<SendReceipt> send = producer.sendAsync(message(sequence, "official"));
                send.whenComplete((receipt, failure) -> permits.release());
                sends.add(send);
            }
            Set<String> ids = ConcurrentHashMap.newKeySet();
            for (CompletableFuture<SendReceipt> send : sends) {
                ids.add(send.get(30, TimeUnit.SECONDS).getMessageId().toString());
            }
            if (ids.size() != count) {
                throw new AssertionError("two sends were answered with one message id");
            }
        }
    }

    private interface Condition {
        boolean holds() throws Exception;
    }

    private static boolean await(Condition condition, Duration limit) throws Exception {
        long deadline = System.nanoTime() + limit.toNanos();
        while (!condition.holds()) {
            if (System.nanoTime() > deadline) {
                return false;
            }
            Thread.sleep(20);
        }
        return true;
    }

    private static long millisSince(long nanos) {
        return TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - nanos);
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    /** What consumers got: deliveries by body, and what was not as it was sent. */
    private static final class Seen {
        final Map<String, AtomicInteger> bodies = new ConcurrentHashMap<>();
        final List<String> wrong = Collections.synchronizedList(new ArrayList<>());

        void note(MessageView message, String tag) {
            bodies.computeIfAbsent(body(message), unused -> new AtomicInteger()).incrementAndGet();
            if (message.getDeliveryAttempt() != 1 || !intact(message, tag)) {
                wrong.add(message.toString());
            }
        }

        int deliveries() {
            return bodies.values().stream().mapToInt(AtomicInteger::get).sum();
        }

        Map<String, Object> result(int sent) {
            long distinct = 0;
            for (int sequence = 0; sequence < sent; sequence++) {
                distinct += bodies.containsKey(Integer.toString(sequence)) ? 1 : 0;
            }
            Map<String, Object> result = new LinkedHashMap<>();
            result.put("sent", sent);
            result.put("distinct", distinct);
            result.put("foreign", bodies.size() - distinct);
            result.put("deliveries", deliveries());
            result.put("wrong", wrong.stream().limit(3).collect(Collectors.toList()));
            return result;
        }
    }

    // The scenarios.

    private Map<String, Object> send() throws Exception {
        sendAll();
        return Map.of("sent", count);
    }

    /** Every message that was sent comes exactly once to a group whose simple consumers acknowledge it. */
    private Map<String, Object> roundtrip() throws Exception {
        long started = System.nanoTime();
        Seen seen = new Seen();
        List<String> failures = Collections.synchronizedList(new ArrayList<>());
        AtomicBoolean stop = new AtomicBoolean();
        List<SimpleConsumer> consumers = List.of(simpleConsumer(), simpleConsumer());
        List<Thread> receivers = new ArrayList<>();
        for (int number = 0; number < 8; number++) {
            SimpleConsumer consumer = consumers.get(number % 2);
            Thread receiver = new Thread(() -> {
                try {
                    while (!stop.get()) {
                        for (MessageView message : consumer.receive(32, Duration.ofSeconds(30))) {
                            seen.note(message, "official");
                            consumer.ack(message);
                        }
                    }
                } catch (Throwable failure) {
                    failures.add(failure.toString());
                }
            });
            receiver.start();
            receivers.add(receiver);
        }
        sendAll();
        long sentMillis = millisSince(started);
        await(() -> seen.bodies.size() >= count, PATIENCE);
        long receivedMillis = millisSince(started);
        // Each ends its poll first: a duplicate in the making would show.
        stop.set(true);
        for (Thread receiver : receivers) {
            receiver.join();
        }
        for (SimpleConsumer consumer : consumers) {
            consumer.close();
        }
        Map<String, Object> result = seen.result(count);
        result.put("failures", failures);
        result.put("sent_ms", sentMillis);
        result.put("received_ms", receivedMillis);
        return result;
    }

    /** Every message that was sent comes exactly once to a push consumer that finishes it. */
    private Map<String, Object> push() throws Exception {
        Seen seen = new Seen();
        PushConsumer consumer = pushConsumer(message -> {
            seen.note(message, "official");
            return ConsumeResult.SUCCESS;
        });
        long started = System.nanoTime();
        sendAll();
        await(() -> seen.bodies.size() >= count, PATIENCE);
        long receivedMillis = millisSince(started);
        // It ends its polls and finishes what they brought.
        consumer.close();
        Map<String, Object> result = seen.result(count);
        result.put("received_ms", receivedMillis);
        return result;
    }

    /** What a consumer saw of messages that come twice. */
    private static final class Again {
        final Map<String, Long> first = new ConcurrentHashMap<>();
        final Map<String, Long> gaps = new ConcurrentHashMap<>();
        final AtomicInteger repeated = new AtomicInteger();

        /** Whether this is its second coming; {@code since} is when its first began. */
        boolean second(MessageView message, long since) {
            String body = body(message);
            if (message.getDeliveryAttempt() == 1 && first.putIfAbsent(body, since) == null) {
                return false;
            }
            Long began = first.get(body);
            boolean second = message.getDeliveryAttempt() == 2 && began != null
                && gaps.putIfAbsent(body, millisSince(began)) == null;
            if (!second) {
                repeated.incrementAndGet();
            }
            return second;
        }

        Map<String, Object> result(int sent) {
            Map<String, Object> result = new LinkedHashMap<>();
            result.put("sent", sent);
            result.put("first", first.size());
            result.put("second", gaps.size());
            result.put("repeated", repeated.get());
            result.put("min_gap_ms", gaps.isEmpty() ? 0 : Collections.min(gaps.values()));
            result.put("max_gap_ms", gaps.isEmpty() ? 0 : Collections.max(gaps.values()));
            return result;
        }
    }

    /** Messages that nobody acknowledges come back as attempt 2 after their invisible time and not before. */
    private Map<String, Object> redelivery() throws Exception {
        Duration invisible = Duration.ofSeconds(10);
        Again again = new Again();
        try (SimpleConsumer consumer = simpleConsumer()) {
            sendAll();
            await(() -> {
                long called = System.nanoTime();
                for (MessageView message : consumer.receive(32, invisible)) {
                    if (again.second(message, called)) {
                        consumer.ack(message);
                    }
                }
                return again.gaps.size() >= count;
            }, PATIENCE);
        }
        Map<String, Object> result = again.result(count);
        result.put("invisible_ms", invisible.toMillis());
        return result;
    }

    /** Messages that a push consumer fails once come back to it as attempt 2. */
    private Map<String, Object> retry() throws Exception {
        Again again = new Again();
        PushConsumer consumer = pushConsumer(message ->
            again.second(message, System.nanoTime()) ? ConsumeResult.SUCCESS : ConsumeResult.FAILURE);
        sendAll();
        await(() -> again.gaps.size() >= count, PATIENCE);
        consumer.close();
        return again.result(count);
    }

    /** A push consumer that asked for one of two tags gets that and nothing else. */
    private Map<String, Object> filter() throws Exception {
        return filtered(new FilterExpression("wanted || also"));
    }

    /** The same by an expression over a property and the tag. */
    private Map<String, Object> sql() throws Exception {
        String expression = "sequence BETWEEN 0 AND " + (count - 1) + " AND TAGS IN ('wanted', 'also')";
        return filtered(new FilterExpression(expression, FilterExpressionType.SQL92));
    }

    private Map<String, Object> filtered(FilterExpression filter) throws Exception {
        Seen seen = new Seen();
        PushConsumer consumer = pushConsumer(filter, 8, message -> {
            seen.note(message, "wanted");
            return ConsumeResult.SUCCESS;
        });
        try (Producer producer = producer()) {
            for (int sequence = 0; sequence < count; sequence++) {
                producer.send(message(sequence, "wanted"));
                producer.send(message(count + sequence, "other"));
            }
        }
        await(() -> seen.bodies.size() >= count, PATIENCE);
        consumer.close();
        return seen.result(count);
    }

    /**
     * A producer that leaves its transactions open is asked about each of them. The half messages below {@code count}
     * it commits then, and as many others it rolls back.
     */
    private Map<String, Object> orphan() throws Exception {
        Seen seen = new Seen();
        Set<String> asked = ConcurrentHashMap.newKeySet();
        PushConsumer consumer = pushConsumer(message -> {
            seen.note(message, "official");
            return ConsumeResult.SUCCESS;
        });
        Producer producer = CLIENT.newProducerBuilder().setClientConfiguration(configuration()).setTopics(topic)
            .setTransactionChecker(half -> {
                if (!intact(half, "official")) {
                    seen.wrong.add(half.toString());
                }
                asked.add(body(half));
                return Integer.parseInt(body(half)) < count ? TransactionResolution.COMMIT
                    : TransactionResolution.ROLLBACK;
            }).build();
        for (int sequence = 0; sequence < 2 * count; sequence++) {
            producer.send(message(sequence, "official"), producer.beginTransaction());
        }
        await(() -> asked.size() >= 2 * count && seen.bodies.size() >= count, PATIENCE);
        consumer.close();
        producer.close();
        Map<String, Object> result = seen.result(count);
        result.put("asked", asked.size());
        return result;
    }

    /** A message held for longer and then for shorter than it was received for comes back when it was last told. */
    private Map<String, Object> invisible() throws Exception {
        Duration last = Duration.ofSeconds(5);
        Again again = new Again();
        try (SimpleConsumer consumer = simpleConsumer()) {
            sendAll();
            await(() -> {
                for (MessageView message : consumer.receive(32, Duration.ofSeconds(120))) {
                    if (again.second(message, System.nanoTime())) {
                        consumer.ack(message);
                    } else {
                        consumer.changeInvisibleDuration(message, Duration.ofSeconds(300));
                        consumer.changeInvisibleDuration(message, last);
                    }
                }
                return again.gaps.size() >= count;
            }, PATIENCE);
        }
        Map<String, Object> result = again.result(count);
        result.put("invisible_ms", last.toMillis());
        return result;
    }

    /** A push consumer that holds {@code count} messages until its process is killed. */
    private Map<String, Object> hold() throws Exception {
        AtomicInteger held = new AtomicInteger();
        pushConsumer(FilterExpression.SUB_ALL, count, message -> {
            say("HELD " + held.incrementAndGet());
            new Semaphore(0).acquireUninterruptibly();
            return ConsumeResult.FAILURE;
        });
        while (System.in.read() >= 0) { }
        return Map.of();
    }

    /** A push consumer that finishes {@code count} messages: what another member of its group left. */
    private Map<String, Object> take() throws Exception {
        Map<String, Integer> attempts = new ConcurrentHashMap<>();
        AtomicInteger deliveries = new AtomicInteger();
        PushConsumer consumer = pushConsumer(message -> {
            deliveries.incrementAndGet();
            attempts.put(body(message), message.getDeliveryAttempt());
            return ConsumeResult.SUCCESS;
        });
        say("READY");
        long started = System.nanoTime();
        await(() -> attempts.size() >= count, Duration.ofSeconds(90));
        long took = millisSince(started);
        // The end of a consumer takes as long as its polls.
        say("TAKEN " + attempts.size());
        consumer.close();
        return Map.of("distinct", attempts.size(), "deliveries", deliveries.get(), "took_ms", took,
            "attempts", new TreeSet<>(attempts.values()));
    }

    /** The longest time between two of many events. */
    private static final class Gap {
        private long last = System.nanoTime();
        private long longest;

        synchronized void event() {
            longest = Math.max(longest, millisSince(last));
            last = System.nanoTime();
        }

        synchronized long millis() {
            return longest;
        }
    }

    /**
     * Sends and consumes without a pause, says UNDER_LOAD once {@code count} went through, and after a line on stdin
     * goes on until as many again did. What was answered OK must come; a send may fail, which is told.
     */
    private Map<String, Object> carry() throws Exception {
        Map<String, AtomicInteger> seen = new HashMap<>();
        Set<String> sent = ConcurrentHashMap.newKeySet();
        AtomicInteger next = new AtomicInteger();
        AtomicInteger failed = new AtomicInteger();
        AtomicBoolean stop = new AtomicBoolean();
        PushConsumer consumer = pushConsumer(message -> {
            synchronized (seen) {
                seen.computeIfAbsent(body(message), unused -> new AtomicInteger()).incrementAndGet();
            }
            return ConsumeResult.SUCCESS;
        });
        Producer producer = producer();
        List<Thread> senders = new ArrayList<>();
        Gap gap = new Gap();
        for (int number = 0; number < 4; number++) {
            Thread sender = new Thread(() -> {
                while (!stop.get()) {
                    int sequence = next.getAndIncrement();
                    try {
                        producer.send(message(sequence, "official"));
                        sent.add(Integer.toString(sequence));
                        gap.event();
                        Thread.sleep(5);
                    } catch (ClientException failure) {
                        failed.incrementAndGet();
                        failure.printStackTrace();
                    } catch (InterruptedException stopped) {
                        return;
                    }
                }
            });
            sender.start();
            senders.add(sender);
        }
        Condition allCame = () -> {
            synchronized (seen) {
                return seen.keySet().containsAll(sent);
            }
        };
        boolean underLoad = await(() -> {
            synchronized (seen) {
                return sent.size() >= count && seen.size() >= count;
            }
        }, PATIENCE);
        say(underLoad ? "UNDER_LOAD" : "STUCK");
        System.in.read();
        int before = sent.size();
        await(() -> sent.size() >= before + count, PATIENCE);
        stop.set(true);
        for (Thread sender : senders) {
            sender.join();
        }
        await(allCame, PATIENCE);
        consumer.close();
        producer.close();
        Map<String, Object> result = new LinkedHashMap<>();
        synchronized (seen) {
            result.put("sent", sent.size());
            result.put("after", sent.size() - before);
            result.put("failed", failed.get());
            result.put("missing", sent.stream().filter(body -> !seen.containsKey(body)).count());
            result.put("distinct", seen.size());
            result.put("deliveries", seen.values().stream().mapToInt(AtomicInteger::get).sum());
        }
        result.put("send_gap_ms", gap.millis());
        return result;
    }

    private static String json(Object value) {
        if (value instanceof Map<?, ?> map) {
            return map.entrySet().stream().map(entry -> json(entry.getKey()) + ":" + json(entry.getValue()))
                .collect(Collectors.joining(",", "{", "}"));
        }
        if (value instanceof Collection<?> list) {
            return list.stream().map(Official::json).collect(Collectors.joining(",", "[", "]"));
        }
        if (value instanceof Number || value instanceof Boolean) {
            return value.toString();
        }
        String text = String.valueOf(value).replace("\\", "\\\\").replace("\"", "\\\"");
        return '"' + text.replaceAll("\\p{Cntrl}", " ") + '"';
    }
}
