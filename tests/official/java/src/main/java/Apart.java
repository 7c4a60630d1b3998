import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/** Message groups that two broker groups keep, one of which is down for a while. */
final class Apart {
    static final Map<String, Official.Scenario> SCENARIOS =
        Map.of("fifo-apart", official -> new Apart(official).fifoApart());

    private static final int MESSAGE_GROUPS = 12;

    private final Official official;
    private final List<List<Integer>> orders =
        IntStream.range(0, MESSAGE_GROUPS).mapToObj(group -> new ArrayList<Integer>()).collect(Collectors.toList());

    private Apart(Official official) {
        this.official = official;
    }

    /**
     * Whether the tag of a message is the one that the consumer subscribes to: of the messages of a message group the
     * second of each three has another one.
     */
    private static boolean wanted(int sequence) {
        return sequence / MESSAGE_GROUPS % 3 != 1;
    }

    private synchronized void note(int sequence) {
        orders.get(sequence % MESSAGE_GROUPS).add(sequence);
    }

    private synchronized int came() {
        return orders.stream().mapToInt(came -> new HashSet<>(came).size()).sum();
    }

    private void receive(SimpleConsumer consumer) {
        while (true) {
            try {
                for (MessageView message : consumer.receive(32, Duration.ofSeconds(10))) {
                    note(Integer.parseInt(Official.body(message)));
                    consumer.ack(message);
                }
            } catch (Exception failure) {
                // A queue of the broker group that is down, and it is another one's turn.
                System.err.println(failure);
                try {
                    Thread.sleep(50);
                } catch (InterruptedException end) {
                    return;
                }
            }
        }
    }

    private void send(Producer producer, int sequence) throws ClientException {
        String group = "group-" + sequence % MESSAGE_GROUPS;
        String tag = wanted(sequence) ? "official" : "other";
        producer.send(official.builder(sequence, tag).setMessageGroup(group).build());
    }

    private void sendUntilTaken(Producer producer, int sequence) throws Exception {
        long deadline = System.nanoTime() + Official.PATIENCE.toNanos();
        while (true) {
            try {
                send(producer, sequence);
                return;
            } catch (Exception failure) {
                System.err.println(failure);
                if (System.nanoTime() > deadline) {
                    throw failure;
                }
                Thread.sleep(100);
            }
        }
    }

    /** Sends the rest of a message group from one message on, but what would come before one that is refused. */
    private void sendWhileDown(Producer producer, int first, Set<Integer> held) {
        boolean refused = false;
        for (int sequence = first; sequence < 2 * official.count; sequence += MESSAGE_GROUPS) {
            if (!refused) {
                try {
                    send(producer, sequence);
                    continue;
                } catch (Exception failure) {
                    System.err.println(failure);
                    refused = true;
                }
            }
            held.add(sequence);
        }
    }

    /**
     * Sends {@code count} messages before and {@code count} while one broker group is down, until the test says that it is
     * back: a message that is refused, and those that follow it in its message group, are sent then.
     */
    private Map<String, Object> fifoApart() throws Exception {
        int count = official.count;
        SimpleConsumer consumer = official.simpleConsumer(new FilterExpression("official"));
        Thread receiver = new Thread(() -> receive(consumer));
        receiver.setDaemon(true);
        receiver.start();
        Producer producer = official.producer();
        for (int sequence = 0; sequence < count; sequence++) {
            sendUntilTaken(producer, sequence);
        }
        Official.say("HALF");
        Official.INPUT.readLine();
        Set<Integer> held = new ConcurrentSkipListSet<>();
        // Clients wait seconds for a node that is down, so that the message groups are sent at the same time.
        List<Thread> senders = new ArrayList<>();
        for (int group = 0; group < MESSAGE_GROUPS; group++) {
            int first = count + group;
            Thread sender = new Thread(() -> sendWhileDown(producer, first, held));
            sender.start();
            senders.add(sender);
        }
        for (Thread sender : senders) {
            sender.join();
        }
        Official.say("HELD " + held.size());
        Official.INPUT.readLine();
        for (int sequence : held) {
            sendUntilTaken(producer, sequence);
        }
        long all = IntStream.range(0, 2 * count).filter(Apart::wanted).count();
        Official.await(() -> came() >= all, Official.PATIENCE);
        synchronized (this) {
            List<List<Integer>> copies = orders.stream().map(ArrayList::new).collect(Collectors.toList());
            return Map.of("sent", 2 * count, "held", held.size(), "orders", copies);
        }
    }
}
