import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import java.util.stream.Stream;
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
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;

/**
 * The official Java client (rocketmq-client-java) against a running cluster: {@code SCENARIO ACCESS TOPIC GROUP COUNT}.
 *
 * <p>The last line on stdout is RESULT and a JSON object, which tests/tests/official.rs judges. TLS is on, as this
 * client has it by itself, unless the environment says OFFICIAL_TLS=0.
 */
public final class Official {
    static final ClientServiceProvider CLIENT = ClientServiceProvider.loadService();
    private static final int SEND_IN_FLIGHT = 64;
    static final Duration PATIENCE = Duration.ofSeconds(60);
    /** What the test says to the program. */
    static final BufferedReader INPUT = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));

    interface Scenario {
        Map<String, Object> run(Official official) throws Exception;
    }

    private static final Map<String, Scenario> SCENARIOS = Map.of(
        "send", Official::send,
        "roundtrip", Official::roundtrip,
        "push", Official::push,
        "redelivery", Official::redelivery,
        "retry", Official::retry,
        "filter", Official::filter,
        "sql", Official::sql,
        "invisible", Official::invisible,
        "hold", Official::hold,
        "take", Official::take);

    final String access;
    final String topic;
    final String group;
    final int count;

    Official(String access, String topic, String group, int count) {
        this.access = access;
        this.topic = topic;
        this.group = group;
        this.count = count;
    }

    public static void main(String[] arguments) {
        try {
            Official official =
                new Official(arguments[1], arguments[2], arguments[3], Integer.parseInt(arguments[4]));
            Scenario scenario = Stream
                .of(SCENARIOS, Features.SCENARIOS, Carry.SCENARIOS, Lite.SCENARIOS, Apart.SCENARIOS)
                .map(scenarios -> scenarios.get(arguments[0])).filter(Objects::nonNull).findFirst().orElse(null);
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

    ClientConfiguration configuration() {
        boolean tls = !"0".equals(System.getenv("OFFICIAL_TLS"));
        return ClientConfiguration.newBuilder().setEndpoints(access).enableSsl(tls).build();
    }

    Producer producer() throws ClientException {
        return CLIENT.newProducerBuilder().setClientConfiguration(configuration()).setTopics(topic).build();
    }

    SimpleConsumer simpleConsumer() throws ClientException {
        return simpleConsumer(FilterExpression.SUB_ALL);
    }

    SimpleConsumer simpleConsumer(FilterExpression filter) throws ClientException {
        return CLIENT.newSimpleConsumerBuilder().setClientConfiguration(configuration()).setConsumerGroup(group)
            .setAwaitDuration(Duration.ofSeconds(5))
            .setSubscriptionExpressions(Map.of(topic, filter)).build();
    }

    PushConsumer pushConsumer(FilterExpression filter, int threads, MessageListener listener)
        throws ClientException {
        return CLIENT.newPushConsumerBuilder().setClientConfiguration(configuration()).setConsumerGroup(group)
            .setSubscriptionExpressions(Map.of(topic, filter)).setConsumptionThreadCount(threads)
            .setMessageListener(listener).build();
    }

    PushConsumer pushConsumer(MessageListener listener) throws ClientException {
        return pushConsumer(FilterExpression.SUB_ALL, 8, listener);
    }

    /** The message whose body is its sequence number. */
    Message message(int sequence, String tag) {
        return builder(sequence, tag).build();
    }

    MessageBuilder builder(int sequence, String tag) {
        return CLIENT.newMessageBuilder().setTopic(topic).setBody(Integer.toString(sequence).getBytes(StandardCharsets.UTF_8))
            .setTag(tag).setKeys("key-" + sequence).addProperty("sequence", Integer.toString(sequence));
    }

    static String body(MessageView message) {
        return StandardCharsets.UTF_8.decode(message.getBody()).toString();
    }

    static boolean intact(MessageView message, String tag) {
        return body(message).equals(message.getProperties().get("sequence"))
            && message.getTag().filter(tag::equals).isPresent()
            && message.getKeys().equals(List.of("key-" + body(message)));
    }

    void sendAll() throws Exception {
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

    interface Condition {
        boolean holds() throws Exception;
    }

    static boolean await(Condition condition, Duration limit) throws Exception {
        long deadline = System.nanoTime() + limit.toNanos();
        while (!condition.holds()) {
            if (System.nanoTime() > deadline) {
                return false;
            }
            Thread.sleep(20);
        }
        return true;
    }

    static long millisSince(long nanos) {
        return TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - nanos);
    }

    static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    /** What consumers got: deliveries by body, and what was not as it was sent. */
    static final class Seen {
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
        while (INPUT.readLine() != null) { }
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

    static String json(Object value) {
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
