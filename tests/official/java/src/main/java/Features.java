import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/** Message types and consumer features, one scenario each. Few close their consumers: the process ends. */
final class Features {
    static final Map<String, Official.Scenario> SCENARIOS = Map.of(
        "delay", official -> new Features(official).delay(),
        "transaction", official -> new Features(official).transaction(),
        "orphans", official -> new Features(official).orphans(),
        "fifo", official -> new Features(official).fifo(),
        "fifo-simple", official -> new Features(official).fifoSimple(),
        "priority", official -> new Features(official).priority(),
        "dead-letter", official -> new Features(official).deadLetter(),
        "largest", official -> new Features(official).largest(),
        "unknown-topic", official -> new Features(official).unknownTopic());

    /** Messages of a FIFO scenario belong to so many message groups in turn; the second of the first fails once. */
    private static final int MESSAGE_GROUPS = 3;
    private static final int FAILS_ONCE = MESSAGE_GROUPS;
    private static final int PRIORITIES = 3;
    private static final int TOO_MANY_BYTES = (4 << 20) + 1;

    private final Official official;
    private final int count;

    private Features(Official official) {
        this.official = official;
        this.count = official.count;
    }

    private static int sequence(MessageView message) {
        return Integer.parseInt(Official.body(message));
    }

    /** Receives, notes and acknowledges until there is enough, or for as long as anybody has patience. */
    private static void receiveUntil(SimpleConsumer consumer, Consumer<MessageView> note, Official.Condition enough)
        throws Exception {
        Official.await(() -> {
            if (enough.holds()) {
                return true;
            }
            for (MessageView message : consumer.receive(32, Duration.ofSeconds(30))) {
                note.accept(message);
                consumer.ack(message);
            }
            return enough.holds();
        }, Official.PATIENCE);
    }

    private interface Call {
        void make() throws Exception;
    }

    /** What a call says that must not succeed; empty when it did. */
    private static String refusal(Call call) {
        try {
            call.make();
            return "";
        } catch (Exception failure) {
            return failure.toString();
        }
    }

    /** Messages come at their time and not before; a third of them is taken back and does not come at all. */
    private Map<String, Object> delay() throws Exception {
        SimpleConsumer consumer = official.simpleConsumer();
        Producer producer = official.producer();
        long start = System.currentTimeMillis() + 2000;
        Set<Integer> recalled = new HashSet<>();
        String first = "";
        for (int sequence = 0; sequence < count; sequence++) {
            SendReceipt receipt = producer.send(
                official.builder(sequence, "official").setDeliveryTimestamp(start + sequence * 100L).build());
            if (sequence == 0) {
                first = receipt.getRecallHandle();
            }
            if (sequence % 3 == 1) {
                producer.recallMessage(official.topic, receipt.getRecallHandle());
                recalled.add(sequence);
            }
        }
        Set<Integer> came = new HashSet<>();
        List<Long> lateness = new ArrayList<>();
        AtomicInteger repeated = new AtomicInteger();
        AtomicInteger wrong = new AtomicInteger();
        receiveUntil(consumer, message -> {
            long due = start + sequence(message) * 100L;
            lateness.add(System.currentTimeMillis() - due);
            repeated.addAndGet(came.add(sequence(message)) ? 0 : 1);
            wrong.addAndGet(message.getDeliveryTimestamp().filter(time -> time == due).isPresent() ? 0 : 1);
        }, () -> came.size() >= count - recalled.size());
        String handle = first;
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("sent", count);
        result.put("recalled", recalled.size());
        result.put("came", came.size());
        result.put("recalled_came", recalled.stream().filter(came::contains).count());
        result.put("repeated", repeated.get());
        result.put("wrong_time", wrong.get());
        result.put("earliest_ms", lateness.isEmpty() ? 0 : Collections.min(lateness));
        result.put("latest_ms", lateness.isEmpty() ? 0 : Collections.max(lateness));
        result.put("late_recall", refusal(() -> producer.recallMessage(official.topic, handle)));
        return result;
    }

    /**
     * A third of the messages is committed, a third rolled back, a third left open: those may come only when the broker
     * has asked about them.
     */
    private Map<String, Object> transaction() throws Exception {
        SimpleConsumer consumer = official.simpleConsumer();
        AtomicInteger checked = new AtomicInteger();
        Producer producer = Official.CLIENT.newProducerBuilder().setClientConfiguration(official.configuration())
            .setTopics(official.topic).setTransactionChecker(message -> {
                checked.incrementAndGet();
                return TransactionResolution.COMMIT;
            }).build();
        for (int sequence = 0; sequence < count; sequence++) {
            Transaction transaction = producer.beginTransaction();
            producer.send(official.message(sequence, "official"), transaction);
            if (sequence % 3 == 0) {
                transaction.commit();
            } else if (sequence % 3 == 1) {
                transaction.rollback();
            }
        }
        Map<Integer, Integer> came = new HashMap<>();
        int third = count / 3;
        receiveUntil(consumer, message -> came.merge(sequence(message), 1, Integer::sum),
            () -> kind(came, 0) >= third);
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("sent", count);
        result.put("committed_came", kind(came, 0));
        result.put("rolled_back_came", kind(came, 1));
        result.put("open_came", kind(came, 2));
        result.put("repeated", came.values().stream().mapToInt(Integer::intValue).sum() - came.size());
        result.put("checked", checked.get());
        return result;
    }

    /**
     * A producer that leaves its transactions open is asked about each of them. The half messages below {@code count}
     * it commits then, and as many others it rolls back.
     */
    private Map<String, Object> orphans() throws Exception {
        Official.Seen seen = new Official.Seen();
        Set<String> asked = ConcurrentHashMap.newKeySet();
        PushConsumer consumer = official.pushConsumer(message -> {
            seen.note(message, "official");
            return ConsumeResult.SUCCESS;
        });
        Producer producer = Official.CLIENT.newProducerBuilder().setClientConfiguration(official.configuration())
            .setTopics(official.topic).setTransactionChecker(half -> {
                if (!Official.intact(half, "official")) {
                    seen.wrong.add(half.toString());
                }
                asked.add(Official.body(half));
                return sequence(half) < count ? TransactionResolution.COMMIT : TransactionResolution.ROLLBACK;
            }).build();
        for (int sequence = 0; sequence < 2 * count; sequence++) {
            producer.send(official.message(sequence, "official"), producer.beginTransaction());
        }
        Official.await(() -> asked.size() >= 2 * count && seen.bodies.size() >= count, Official.PATIENCE);
        // It ends its polls first: what was to be rolled back would show.
        consumer.close();
        Map<String, Object> result = seen.result(count);
        result.put("asked", asked.size());
        return result;
    }

    private static long kind(Map<Integer, Integer> came, int kind) {
        return came.keySet().stream().filter(sequence -> sequence % 3 == kind).count();
    }

    /** What came of each message group, in the order in which it came. */
    private static final class Orders {
        private final List<List<Integer>> came = new ArrayList<>();
        private final Set<Integer> ended = new HashSet<>();
        private boolean failed;

        Orders() {
            for (int group = 0; group < MESSAGE_GROUPS; group++) {
                came.add(new ArrayList<>());
            }
        }

        /** Whether the message shall fail now. */
        synchronized boolean note(MessageView message) {
            int sequence = sequence(message);
            came.get(sequence % MESSAGE_GROUPS).add(sequence);
            if (sequence == FAILS_ONCE && !failed) {
                failed = true;
                return true;
            }
            ended.add(sequence);
            return false;
        }

        synchronized boolean whole(int count) {
            return ended.size() >= count;
        }

        synchronized Map<String, Object> result(int sent) {
            return Map.of("sent", sent, "orders", came);
        }
    }

    private void sendInOrder() throws ClientException {
        Producer producer = official.producer();
        for (int sequence = 0; sequence < count; sequence++) {
            producer.send(official.builder(sequence, "official")
                .setMessageGroup("group-" + sequence % MESSAGE_GROUPS).build());
        }
    }

    /** A push consumer gets each message group in order, and one that failed before its successors. */
    private Map<String, Object> fifo() throws Exception {
        Orders orders = new Orders();
        official.pushConsumer(message -> orders.note(message) ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS);
        sendInOrder();
        Official.await(() -> orders.whole(count), Official.PATIENCE);
        return orders.result(count);
    }

    /** The same with a simple consumer, which lets a message fail by making it visible soon. */
    private Map<String, Object> fifoSimple() throws Exception {
        SimpleConsumer consumer = official.simpleConsumer();
        sendInOrder();
        Orders orders = new Orders();
        Official.await(() -> {
            for (MessageView message : consumer.receive(32, Duration.ofSeconds(30))) {
                if (orders.note(message)) {
                    consumer.changeInvisibleDuration(message, Duration.ofSeconds(1));
                } else {
                    consumer.ack(message);
                }
            }
            return orders.whole(count);
        }, Official.PATIENCE);
        return orders.result(count);
    }

    /** Of messages that wait, those of the highest priority come first. */
    private Map<String, Object> priority() throws Exception {
        Producer producer = official.producer();
        for (int sequence = 0; sequence < count; sequence++) {
            producer.send(official.builder(sequence, "official").setPriority(sequence % PRIORITIES).build());
        }
        List<Integer> came = new ArrayList<>();
        receiveUntil(official.simpleConsumer(), message -> came.add(sequence(message) % PRIORITIES),
            () -> came.size() >= count);
        return Map.of("sent", count, "priorities", came);
    }

    /** Messages that always fail come as often as their consumer group says, and then to its dead letter topic. */
    private Map<String, Object> deadLetter() throws Exception {
        Map<String, List<Integer>> attempts = new ConcurrentHashMap<>();
        official.pushConsumer(message -> {
            attempts.computeIfAbsent(Official.body(message), unused -> Collections.synchronizedList(new ArrayList<>()))
                .add(message.getDeliveryAttempt());
            return ConsumeResult.FAILURE;
        });
        official.sendAll();
        // The broker says when there is a dead letter topic; the client would not wait for it.
        Official.say("FAILING");
        Official.INPUT.readLine();
        Official dead =
            new Official(official.access, "%DLQ%" + official.group, official.group + "-dead", count);
        Official.Seen letters = new Official.Seen();
        receiveUntil(dead.simpleConsumer(), message -> letters.note(message, "official"),
            () -> letters.bodies.size() >= count);
        Map<String, Object> result = letters.result(count);
        result.put("attempts", attempts);
        return result;
    }

    private Message body(int length) {
        byte[] pattern = "0123456789abcdef".repeat(length / 16 + 1).substring(0, length)
            .getBytes(StandardCharsets.US_ASCII);
        return Official.CLIENT.newMessageBuilder().setTopic(official.topic).setBody(pattern).build();
    }

    /** A body of count bytes comes back as it was; one above the limit is refused, and nothing is stuck after it. */
    private Map<String, Object> largest() throws Exception {
        SimpleConsumer consumer = official.simpleConsumer();
        Producer producer = official.producer();
        String tooLarge = refusal(() -> producer.send(body(TOO_MANY_BYTES)));
        Message largest = body(count);
        producer.send(largest);
        List<ByteBuffer> came = new ArrayList<>();
        receiveUntil(consumer, message -> came.add(message.getBody()), () -> !came.isEmpty());
        boolean whole = !came.isEmpty() && came.get(0).equals(largest.getBody());
        return Map.of("came", came.size(), "whole", whole, "error", tooLarge);
    }

    /** A topic that does not exist is refused, and the producer goes on with one that does. */
    private Map<String, Object> unknownTopic() throws Exception {
        Producer producer = official.producer();
        Message unknown = Official.CLIENT.newMessageBuilder().setTopic(official.topic + "-unknown")
            .setBody("nobody".getBytes(StandardCharsets.UTF_8)).build();
        String refused = refusal(() -> producer.send(unknown));
        String after = refusal(() -> producer.send(official.message(0, "official")));
        return Map.of("error", refused, "after", after);
    }
}
